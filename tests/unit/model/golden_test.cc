// Every golden preset opens, and what is read equals an independent account of the same files.
#include "tests/support/golden.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <bit>
#include <cstring>

#include "base/file.h"
#include "model/checkpoint.h"

namespace atl::model {
namespace {

using ::atl::testing::GoldenCheckpointDir;
using ::atl::testing::GoldenPresets;

class GoldenCheckpoint : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    StatusOr<std::unique_ptr<Checkpoint>> opened =
        Checkpoint::Open(GoldenCheckpointDir(GetParam()));
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
};

// The bytes of a tensor straight from its file.
std::string RawBytes(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  // Few files: find the one whose header has it by trying the names of the layout.
  for (const std::string& name :
       {std::string("model.safetensors"),
        absl::StrFormat("model-%05d-of-00002.safetensors", tensor.file_idx + 1),
        absl::StrFormat("model-%05d-of-00003.safetensors", tensor.file_idx + 1)}) {
    StatusOr<std::string> file = ReadFile(checkpoint.dir() + "/" + name);
    if (file.ok()) return file->substr(tensor.offset, tensor.bytes);
  }
  return "";
}

// float8_e4m3fn from its definition: (-1)^s 2^(e-7) (1 + m/8), subnormals 2^-6 m/8.
double E4M3(uint8_t v) {
  const int e = (v >> 3) & 15;
  const double magnitude = e == 0 ? (v & 7) / 512.0 : std::exp2(e - 7) * (1 + (v & 7) / 8.0);
  return v & 0x80 ? -magnitude : magnitude;
}

float F32At(const std::string& bytes, int64_t i) {
  float value;
  std::memcpy(&value, bytes.data() + 4 * i, 4);
  return value;
}

// Element [row, column] of a tensor by the format's definition.
float Expected(const TensorInfo& tensor, const std::string& raw, const std::string& scale,
               int64_t row, int64_t column) {
  const int64_t columns = tensor.shape.back();
  const int64_t i = row * columns + column;
  switch (tensor.dtype) {
    case DType::kF32:
      return F32At(raw, i);
    case DType::kBf16: {
      const uint32_t low = static_cast<uint8_t>(raw[2 * i]),
                     high = static_cast<uint8_t>(raw[2 * i + 1]);
      return std::bit_cast<float>(high << 24 | low << 16);
    }
    case DType::kF8E4M3: {
      const float s = F32At(scale, row / 128 * ((columns + 127) / 128) + column / 128);
      return static_cast<float>(E4M3(static_cast<uint8_t>(raw[i])) * static_cast<double>(s));
    }
    default:
      ADD_FAILURE() << tensor.name;
      return 0;
  }
}

TEST_P(GoldenCheckpoint, EveryTensorReadsAsTheFormatDefinesIt) {
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    const std::string raw = RawBytes(*checkpoint_, tensor);
    ASSERT_EQ(raw.size(), tensor.bytes) << name;
    std::string scale;
    if (tensor.dtype == DType::kF8E4M3)
      scale = RawBytes(*checkpoint_, *checkpoint_->Find(name + "_scale_inv"));
    const StatusOr<std::vector<float>> values = checkpoint_->ReadAll(name);
    ASSERT_TRUE(values.ok()) << values.status();
    const int64_t columns = tensor.shape.back();
    for (int64_t i = 0; i < values->size(); ++i) {
      const float expected = Expected(tensor, raw, scale, i / columns, i % columns);
      ASSERT_EQ(std::bit_cast<uint32_t>((*values)[i]), std::bit_cast<uint32_t>(expected))
          << name << " element " << i;
    }
  }
}

TEST_P(GoldenCheckpoint, ARangeOfRowsIsThatPartOfTheWhole) {
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    if (tensor.shape.size() != 2 || name.find("experts.1") == std::string::npos) continue;
    const std::vector<float> all = *checkpoint_->ReadAll(name);
    const int64_t n = tensor.shape[0], k = tensor.shape[1];
    for (const auto& [begin, rows] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {n - 1, 1}, {n / 2, n - n / 2}, {n, 0}}) {
      std::vector<float> part(rows * k, -1.f);
      ASSERT_TRUE(checkpoint_->ReadRows(name, begin, rows, part.data()).ok());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + begin * k))
          << name << " from row " << begin;
    }
    EXPECT_EQ(checkpoint_->ReadRows(name, n, 1, nullptr).code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(checkpoint_->ReadRows(name, -1, 1, nullptr).code(), absl::StatusCode::kOutOfRange);
  }
}

TEST_P(GoldenCheckpoint, ParametersAreTheElementsOfTheFile) {
  const ModelConfig& c = checkpoint_->config();
  int64_t elements = 0;
  const std::string mtp = LayerPrefix(c.num_hidden_layers);
  for (const auto& [name, tensor] : checkpoint_->tensors()) {
    if (name.ends_with("_scale_inv") || name.starts_with(mtp)) continue;
    int64_t count = 1;
    for (const int64_t size : tensor.shape) count *= size;
    elements += count;
  }
  EXPECT_EQ(checkpoint_->total_params(), elements);
  // Of the routed experts, E - K stay cold in each MoE layer; of the embedding all rows but one
  // (unless it is the head).
  const int64_t moe_layers = c.num_hidden_layers - c.first_k_dense_replace;
  const int64_t cold = moe_layers * (c.n_routed_experts - c.num_experts_per_tok) * 3 *
                           c.hidden_size * c.moe_intermediate_size +
                       (c.tie_word_embeddings ? 0 : (c.vocab_size - 1) * c.hidden_size);
  EXPECT_EQ(checkpoint_->active_params(), elements - cold);
}

std::string Sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EXPECT_EQ(EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr), 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) absl::StrAppendFormat(&hex, "%02x", digest[i]);
  return hex;
}

TEST_P(GoldenCheckpoint, IsTheOneThatTheGoldenWasMadeFrom) {
  const StatusOr<atl::testing::Golden> golden = atl::testing::LoadGolden(GetParam());
  ASSERT_TRUE(golden.ok()) << golden.status();
  ASSERT_FALSE(golden->json["checkpoint"].empty());
  for (const auto& [file, sha] : golden->json["checkpoint"].items()) {
    EXPECT_EQ(Sha256(*ReadFile(checkpoint_->dir() + "/" + file)), sha.get<std::string>()) << file;
  }
  const int64_t layers = checkpoint_->config().num_hidden_layers;
  EXPECT_EQ(golden->Get("detail.hidden").shape,
            (std::vector<int64_t>{layers + 1, 64, checkpoint_->config().hidden_size}));
  EXPECT_EQ(golden->I64("p5.input_ids").size(), 257);
  EXPECT_EQ(golden->I64("p1.top_ids").size(), 7 * 16);
  EXPECT_EQ(golden->F32("p0.last_logits").size(), checkpoint_->config().vocab_size);
  EXPECT_EQ(golden->Has("mtp.logits"), checkpoint_->config().num_nextn_predict_layers > 0);
}

INSTANTIATE_TEST_SUITE_P(Presets, GoldenCheckpoint, ::testing::ValuesIn(GoldenPresets()),
                         [](const auto& info) { return info.param; });

TEST(DemoModel, Opens) {
  const StatusOr<std::unique_ptr<Checkpoint>> demo = Checkpoint::Open(atl::testing::DemoModelDir());
  ASSERT_TRUE(demo.ok()) << demo.status();
  EXPECT_EQ((*demo)->name(), "demo");
  EXPECT_TRUE((*demo)->config().fp8);
  EXPECT_EQ((*demo)->config().eos_token_ids, std::vector<uint32_t>{1});
  EXPECT_EQ((*demo)->revision().size(), 16);
}

}  // namespace
}  // namespace atl::model
