// Every way a checkpoint can be wrong is refused with a message that names the thing, the expected
// and the found.
#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/model/checkpoint_edit.h"

namespace atl::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr char kFile[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kDown[] = "model.layers.0.mlp.down_proj.weight";

void ExpectRefused(const CheckpointCopy& copy, absl::StatusCode code,
                   const std::vector<std::string>& says) {
  const StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(copy.path());
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.status().code(), code) << opened.status();
  for (const std::string& text : says)
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(text));
}

// Renames a tensor in the header, keeping its bytes.
void Rename(const CheckpointCopy& copy, const std::string& file, const std::string& from,
            const std::string& to) {
  copy.EditHeader(file, [&](Json& header) {
    const Json entry = header[from];
    header.erase(from);
    header[to] = entry;
  });
}

TEST(CheckpointOpen, TheUnspoiltCopyOpens) {
  for (const char* preset : {"v3", "v3_fp8", "tied", "v2_lite"}) {
    const CheckpointCopy copy(preset);
    const StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(copy.path() + "/");
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->name(), "model");
  }
}

TEST(CheckpointOpen, MissingFiles) {
  const CheckpointCopy copy("v3");
  EXPECT_EQ(Checkpoint::Open(copy.path() + "/nowhere").status().code(),
            absl::StatusCode::kNotFound);
  copy.Remove("generation_config.json");
  EXPECT_TRUE(Checkpoint::Open(copy.path()).ok()) << "generation_config.json may be absent";
  copy.Remove(kFile);
  ExpectRefused(copy, absl::StatusCode::kNotFound, {copy.path(), kFile});
  copy.Remove("config.json");
  ExpectRefused(copy, absl::StatusCode::kNotFound, {"config.json"});
}

TEST(CheckpointOpen, MissingTensor) {
  const CheckpointCopy copy("v3");
  Rename(copy, kFile, kDown, "model.layers.0.mlp.other.weight");
  ExpectRefused(copy, absl::StatusCode::kNotFound, {kDown, "is missing", "[128, 344]"});
}

// One tensor of each kind: nothing that the config asks for may be absent.
class MissingTensor : public ::testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(MissingTensor, IsNamed) {
  const auto& [preset, tensor] = GetParam();
  const CheckpointCopy copy(preset);
  Rename(copy, kFile, tensor, "x." + tensor);
  ExpectRefused(copy, absl::StatusCode::kNotFound, {"'" + tensor + "' is missing"});
}

INSTANTIATE_TEST_SUITE_P(Each, MissingTensor,
                         ::testing::ValuesIn(std::vector<std::pair<std::string, std::string>>{
                             {"v3", "model.embed_tokens.weight"},
                             {"v3", "lm_head.weight"},
                             {"v3", "model.norm.weight"},
                             {"v3", "model.layers.0.input_layernorm.weight"},
                             {"v3", "model.layers.3.post_attention_layernorm.weight"},
                             {"v3", "model.layers.1.self_attn.q_a_proj.weight"},
                             {"v3", "model.layers.1.self_attn.q_a_layernorm.weight"},
                             {"v3", "model.layers.1.self_attn.q_b_proj.weight"},
                             {"v2_lite", "model.layers.1.self_attn.q_proj.weight"},
                             {"v3", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"},
                             {"v3", "model.layers.1.self_attn.kv_a_layernorm.weight"},
                             {"v3", "model.layers.1.self_attn.kv_b_proj.weight"},
                             {"v3", "model.layers.1.self_attn.o_proj.weight"},
                             {"v3", "model.layers.0.mlp.gate_proj.weight"},
                             {"v3", "model.layers.1.mlp.up_proj.weight"},
                             {"v3", "model.layers.2.mlp.gate.weight"},
                             {"v3", "model.layers.2.mlp.gate.e_score_correction_bias"},
                             {"v3", "model.layers.3.mlp.experts.15.up_proj.weight"},
                             {"v3", "model.layers.3.mlp.shared_experts.down_proj.weight"},
                             {"v3", "model.layers.4.embed_tokens.weight"},
                             {"v3", "model.layers.4.enorm.weight"},
                             {"v3", "model.layers.4.hnorm.weight"},
                             {"v3", "model.layers.4.eh_proj.weight"},
                             {"v3", "model.layers.4.mlp.experts.0.gate_proj.weight"},
                             {"v3", "model.layers.4.shared_head.norm.weight"},
                             {"v3", "model.layers.4.shared_head.head.weight"}}),
                         [](const auto& info) {
                           std::string name = info.param.first + "_" + info.param.second;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

TEST(CheckpointOpen, WrongShape) {
  const CheckpointCopy copy("v3");
  copy.EditHeader(kFile, [](Json& header) { header[kDown]["shape"] = {344, 128}; });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument,
                {kDown, "[344, 128]", "expected [128, 344]"});
}

TEST(CheckpointOpen, WrongShapeForTheConfig) {
  const CheckpointCopy copy("v3");
  copy.EditJson("config.json", [](Json& config) { config["vocab_size"] = 641; });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument,
                {"model.embed_tokens.weight", "[640, 128]", "expected [641, 128]"});
}

TEST(CheckpointOpen, WrongDtype) {
  const CheckpointCopy copy("v3");
  copy.EditHeader(kFile, [](Json& header) { header[kDown]["dtype"] = "I16"; });
  ExpectRefused(copy, absl::StatusCode::kUnimplemented, {kDown, "I16", "expected BF16"});
}

TEST(CheckpointOpen, Fp8WithoutQuantizationConfig) {
  const CheckpointCopy copy("v3_fp8");
  copy.EditJson("config.json", [](Json& config) { config.erase("quantization_config"); });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument,
                {"is F8_E4M3, expected BF16", "quantization_config"});
}

// The file of the FP8 preset that has a tensor, by its index.
std::string FileOf(const CheckpointCopy& copy, const std::string& tensor) {
  return Json::parse(copy.Read(kIndex))["weight_map"][tensor];
}

TEST(CheckpointOpen, MissingScale) {
  const CheckpointCopy copy("v3_fp8");
  const std::string scale = std::string(kDown) + "_scale_inv";
  Rename(copy, FileOf(copy, scale), scale, "x");
  copy.EditJson(kIndex, [&](Json& index) {
    index["weight_map"]["x"] = index["weight_map"][scale];
    index["weight_map"].erase(scale);
  });
  ExpectRefused(copy, absl::StatusCode::kNotFound, {scale, "is missing", "F8_E4M3"});
}

TEST(CheckpointOpen, WrongShapeOfScale) {
  const CheckpointCopy copy("v3_fp8");
  const std::string scale = std::string(kDown) + "_scale_inv";
  copy.EditHeader(FileOf(copy, scale), [&](Json& header) { header[scale]["shape"] = {3, 2}; });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {scale, "[3, 2]", "expected [2, 3]"});
}

TEST(CheckpointOpen, WrongDtypeOfScale) {
  const CheckpointCopy copy("v3_fp8");
  const std::string scale = std::string(kDown) + "_scale_inv";
  copy.EditHeader(FileOf(copy, scale), [&](Json& header) { header[scale]["dtype"] = "I32"; });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {scale, "is I32, expected F32"});
}

TEST(CheckpointOpen, ScaleOfATensorThatIsNotFp8) {
  const CheckpointCopy copy("v3");
  // A tensor that nothing asks for becomes the "scale" of a bf16 matrix.
  copy.EditJson("config.json", [](Json& config) { config["num_nextn_predict_layers"] = 0; });
  Rename(copy, kFile, "model.layers.4.enorm.weight", std::string(kDown) + "_scale_inv");
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {kDown, "is BF16 and has a scale"});
}

TEST(CheckpointOpen, QuantisedVector) {
  const CheckpointCopy copy("v3_fp8");
  const std::string norm = "model.layers.0.input_layernorm.weight";
  copy.EditHeader(FileOf(copy, norm), [&](Json& header) {
    const int64_t begin = header[norm]["data_offsets"][0];
    header[norm] = {{"dtype", "F8_E4M3"}, {"shape", {192}}, {"data_offsets", {begin, begin + 192}}};
    header["rest"] = {
        {"dtype", "U8"}, {"shape", {192}}, {"data_offsets", {begin + 192, begin + 384}}};
  });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument,
                {norm, "is F8_E4M3", "only matrices are quantised"});
}

TEST(CheckpointOpen, TruncatedFile) {
  const CheckpointCopy copy("v3");
  copy.Truncate(kFile, 1);
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {kFile, "expected a range within"});
}

TEST(CheckpointOpen, TrailingBytes) {
  const CheckpointCopy copy("v3");
  copy.Write(kFile, copy.Read(kFile) + "x");
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {kFile, "bytes of data, expected"});
}

TEST(CheckpointOpen, BadJsonAnywhere) {
  for (const char* name : {"config.json", "generation_config.json", kIndex}) {
    const CheckpointCopy copy("tied");
    copy.Write(name, "{\"a\": ");
    ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {name, "not valid JSON"});
  }
}

TEST(CheckpointOpen, IndexNamesAMissingFile) {
  const CheckpointCopy copy("tied");
  copy.EditJson(
      kIndex, [](Json& index) { index["weight_map"][kDown] = "model-00003-of-00002.safetensors"; });
  ExpectRefused(copy, absl::StatusCode::kNotFound, {kIndex, "model-00003-of-00002.safetensors"});
}

TEST(CheckpointOpen, IndexNamesTheWrongFile) {
  const CheckpointCopy copy("tied");
  copy.EditJson(
      kIndex, [](Json& index) { index["weight_map"][kDown] = "model-00002-of-00002.safetensors"; });
  ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {kIndex, kDown, "is not in model-00002"});
}

TEST(CheckpointOpen, IndexLeavesTheFolder) {
  for (const char* name : {"../model.safetensors", "/etc/passwd", "..", "", "a/b"}) {
    const CheckpointCopy copy("tied");
    copy.EditJson(kIndex, [&](Json& index) { index["weight_map"][kDown] = name; });
    ExpectRefused(copy, absl::StatusCode::kInvalidArgument,
                  {kDown, "expected a file of the same folder"});
  }
}

TEST(CheckpointOpen, IndexWithoutMap) {
  for (const char* text :
       {"{}", R"({"weight_map": {}})", R"({"weight_map": []})", R"({"weight_map": {"a": 1}})"}) {
    const CheckpointCopy copy("tied");
    copy.Write(kIndex, text);
    ExpectRefused(copy, absl::StatusCode::kInvalidArgument, {kIndex});
  }
}

TEST(CheckpointOpen, ArchitectureThatCannotBeServed) {
  const CheckpointCopy copy("v3");
  copy.EditJson("config.json", [](Json& config) {
    config["model_type"] = "deepseek";
    config["scoring_func"] = "softmax";
    config["topk_method"] = "greedy";
  });
  ExpectRefused(copy, absl::StatusCode::kUnimplemented, {"'deepseek'", "multi-head"});
}

std::unique_ptr<Checkpoint> OpenOrDie(const CheckpointCopy& copy) {
  StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(copy.path());
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

void ExpectDataLoss(const CheckpointCopy& copy, const std::string& tensor,
                    const std::vector<std::string>& says) {
  const StatusOr<std::vector<float>> read = OpenOrDie(copy)->ReadAll(tensor);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
  for (const std::string& text : says)
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(text));
}

TEST(CheckpointRead, NanInAMatrix) {
  const CheckpointCopy copy("v3");
  copy.PatchTensor(kFile, kDown, 2 * (5 * 344 + 17), "\xc0\x7f");
  ExpectDataLoss(copy, kDown, {kDown, "NaN at [5, 17]"});
  std::vector<float> row(344);
  EXPECT_TRUE(OpenOrDie(copy)->ReadRows(kDown, 4, 1, row.data()).ok()) << "other rows are sound";
}

TEST(CheckpointRead, InfinityInAMatrix) {
  const CheckpointCopy copy("v3");
  copy.PatchTensor(kFile, kDown, 2 * (127 * 344 + 343), std::string("\x80\xff", 2));
  ExpectDataLoss(copy, kDown, {kDown, "infinite at [127, 343]"});
}

TEST(CheckpointRead, NanInAVector) {
  const CheckpointCopy copy("v3");
  copy.PatchTensor(kFile, "model.layers.2.mlp.gate.e_score_correction_bias", 4 * 3,
                   std::string("\x00\x00\xc0\x7f", 4));
  ExpectDataLoss(copy, "model.layers.2.mlp.gate.e_score_correction_bias",
                 {"e_score_correction_bias", "NaN at [3]"});
}

TEST(CheckpointRead, NanInFp8) {
  const CheckpointCopy copy("v3_fp8");
  copy.PatchTensor(FileOf(copy, kDown), kDown, 130 * 328 + 200, "\xff");
  ExpectDataLoss(copy, kDown, {kDown, "NaN at [130, 200]"});
}

TEST(CheckpointRead, NanOrInfinityInAScale) {
  const std::string scale = std::string(kDown) + "_scale_inv";
  for (const auto& [bytes, says] : std::vector<std::pair<std::string, std::string>>{
           {std::string("\x00\x00\xc0\x7f", 4), "NaN at [1, 2]"},
           {std::string("\x00\x00\x80\x7f", 4), "infinite at [1, 2]"}}) {
    const CheckpointCopy copy("v3_fp8");
    copy.PatchTensor(FileOf(copy, scale), scale, 4 * 5, bytes);
    ExpectDataLoss(copy, kDown, {scale, says});
    std::vector<float> row(328);
    EXPECT_TRUE(OpenOrDie(copy)->ReadRows(kDown, 127, 1, row.data()).ok())
        << "the blocks above have other scales";
    EXPECT_FALSE(OpenOrDie(copy)->ReadRows(kDown, 128, 1, row.data()).ok());
  }
}

TEST(CheckpointRead, Fp8BlocksAreWhatReadRowsDecodes) {
  const CheckpointCopy copy("v3_fp8");
  const std::unique_ptr<Checkpoint> checkpoint = OpenOrDie(copy);
  EXPECT_TRUE(checkpoint->IsFp8(kDown));
  const std::vector<float> all = *checkpoint->ReadAll(kDown);  // [192, 328]
  for (const int64_t block_row : {0, 1}) {
    const int64_t rows = block_row == 0 ? 128 : 64;
    std::vector<uint8_t> codes(rows * 328 + 1, 5);
    float scale[4] = {0, 0, 0, 5};
    ASSERT_TRUE(checkpoint->ReadFp8Blocks(kDown, block_row, codes.data(), scale).ok());
    for (int64_t i = 0; i < rows * 328; ++i) {
      ASSERT_EQ(F8E4M3ToF32(codes[i]) * scale[i % 328 / 128], all[block_row * 128 * 328 + i]) << i;
    }
    EXPECT_EQ(codes.back(), 5);
    EXPECT_EQ(scale[3], 5);
  }
}

TEST(CheckpointRead, Fp8BlocksOfWhatHasNone) {
  const CheckpointCopy copy("v3_fp8");
  const std::unique_ptr<Checkpoint> checkpoint = OpenOrDie(copy);
  std::vector<uint8_t> codes(128 * 328);
  float scale[3];
  const auto code = [&](const std::string& tensor, int64_t block_row) {
    return checkpoint->ReadFp8Blocks(tensor, block_row, codes.data(), scale).code();
  };
  EXPECT_FALSE(checkpoint->IsFp8("lm_head.weight"));
  EXPECT_FALSE(checkpoint->IsFp8("nothing"));
  EXPECT_EQ(code("lm_head.weight", 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("nothing", 0), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(kDown, 2), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code(kDown, -1), absl::StatusCode::kOutOfRange);
}

TEST(CheckpointRead, NanInFp8Blocks) {
  const CheckpointCopy copy("v3_fp8");
  copy.PatchTensor(FileOf(copy, kDown), kDown, 130 * 328 + 200, "\x7f");
  const std::unique_ptr<Checkpoint> checkpoint = OpenOrDie(copy);
  std::vector<uint8_t> codes(128 * 328);
  float scale[3];
  EXPECT_TRUE(checkpoint->ReadFp8Blocks(kDown, 0, codes.data(), scale).ok());
  const Status status = checkpoint->ReadFp8Blocks(kDown, 1, codes.data(), scale);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(kDown), HasSubstr("NaN at [130, 200]")));
}

TEST(CheckpointRead, FileCutShortAfterOpen) {
  const CheckpointCopy copy("v3");
  const std::unique_ptr<Checkpoint> checkpoint = OpenOrDie(copy);
  copy.Truncate(kFile, checkpoint->Find("lm_head.weight")->bytes + 3000000);
  int failed = 0;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    const StatusOr<std::vector<float>> read = checkpoint->ReadAll(name);
    if (read.ok()) continue;
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(read.status().message()),
                AllOf(HasSubstr(kFile), HasSubstr("ends at byte")));
    ++failed;
  }
  EXPECT_GT(failed, 0);
}

TEST(CheckpointRead, UnknownTensor) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenOrDie(CheckpointCopy("v3"));
  EXPECT_EQ(checkpoint->ReadAll("nothing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(checkpoint->Find("nothing"), nullptr);
  EXPECT_FALSE(checkpoint->IsBf16("nothing"));
  EXPECT_TRUE(checkpoint->IsBf16(kDown));
  EXPECT_FALSE(checkpoint->IsBf16("model.layers.2.mlp.gate.e_score_correction_bias"));
}

TEST(CheckpointRevision, TellsCheckpointsApart) {
  const CheckpointCopy copy("v3");
  const std::string revision = OpenOrDie(copy)->revision();
  EXPECT_EQ(OpenOrDie(CheckpointCopy("v3"))->revision(), revision)
      << "the folder's place does not matter";
  copy.Remove("generation_config.json");
  EXPECT_EQ(OpenOrDie(copy)->revision(), revision);

  const CheckpointCopy config("v3");
  config.EditJson("config.json", [](Json& c) { c["rope_theta"] = 20000; });
  EXPECT_NE(OpenOrDie(config)->revision(), revision);

  const CheckpointCopy header("v3");
  header.EditHeader(kFile, [](Json& h) { h["__metadata__"] = {{"a", "b"}}; });
  EXPECT_NE(OpenOrDie(header)->revision(), revision);

  const CheckpointCopy last_byte("v3");
  std::string bytes = last_byte.Read(kFile);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  last_byte.Write(kFile, bytes);
  EXPECT_NE(OpenOrDie(last_byte)->revision(), revision);
}

}  // namespace
}  // namespace atl::model
