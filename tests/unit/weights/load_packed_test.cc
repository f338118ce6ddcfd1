#include "weights/load_packed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "tests/support/golden.h"
#include "tests/support/mixed_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace atl::weights {
namespace {

using kernels::PackedMatrix;
using kernels::WeightFormat;
using model::Checkpoint;
using model::MatrixFormat;
using ::testing::HasSubstr;

std::unique_ptr<Checkpoint> OpenGolden(const std::string& preset) {
  StatusOr<std::unique_ptr<Checkpoint>> opened =
      Checkpoint::Open(atl::testing::GoldenCheckpointDir(preset));
  EXPECT_TRUE(opened.ok()) << opened.status();
  return *std::move(opened);
}

// bf16 by arithmetic on the value, not on its bits: the nearest of the two neighbours, the even one
// on a tie.
float NearestBf16(float v) {
  if (v == 0) return v;
  int exponent;
  std::frexp(v, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 8, -133));
  return static_cast<float>(std::nearbyint(v / unit) * unit);
}

void ExpectRows(const Checkpoint& checkpoint, const std::string& tensor, const PackedMatrix& packed,
                bool rounded) {
  const std::vector<float> all = *checkpoint.ReadAll(tensor);
  std::vector<float> row(packed.k());
  ASSERT_EQ(packed.n() * packed.k(), all.size());
  for (int64_t n = 0; n < packed.n(); ++n) {
    packed.ReadRow(n, row.data());
    for (int64_t k = 0; k < packed.k(); ++k) {
      const float expected =
          rounded ? NearestBf16(all[n * packed.k() + k]) : all[n * packed.k() + k];
      ASSERT_EQ(row[k], expected) << tensor << " [" << n << ", " << k << "]";
    }
  }
}

TEST(LoadPacked, Bf16StaysBf16UnderEitherRule) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v2_lite");
  ThreadPool pool({.num_threads = 3});
  // 44 rows: the last panel is partial; 152 columns are no multiple of anything.
  for (const char* tensor :
       {"model.layers.1.mlp.experts.3.gate_proj.weight",
        "model.layers.1.mlp.experts.3.down_proj.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "lm_head.weight"}) {
    for (const MatrixFormat rule : {MatrixFormat::kExact, MatrixFormat::kBf16}) {
      const StatusOr<PackedMatrix> packed = LoadPacked(*checkpoint, tensor, rule, &pool);
      ASSERT_TRUE(packed.ok()) << packed.status();
      EXPECT_EQ(packed->format(), WeightFormat::kBf16);
      ExpectRows(*checkpoint, tensor, *packed, /*rounded=*/false);
    }
  }
}

TEST(LoadPacked, Fp8IsExactInFloat32AndRoundedOnceInBf16) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3_fp8");
  ThreadPool pool({.num_threads = 3});
  for (const char* tensor :
       {"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.experts.0.up_proj.weight",
        "model.layers.2.self_attn.kv_b_proj.weight"}) {
    const StatusOr<PackedMatrix> exact =
        LoadPacked(*checkpoint, tensor, MatrixFormat::kExact, &pool);
    ASSERT_TRUE(exact.ok()) << exact.status();
    EXPECT_EQ(exact->format(), WeightFormat::kF32);
    ExpectRows(*checkpoint, tensor, *exact, /*rounded=*/false);
    const StatusOr<PackedMatrix> bf16 = LoadPacked(*checkpoint, tensor, MatrixFormat::kBf16, &pool);
    ASSERT_TRUE(bf16.ok()) << bf16.status();
    EXPECT_EQ(bf16->format(), WeightFormat::kBf16);
    ExpectRows(*checkpoint, tensor, *bf16, /*rounded=*/true);
  }
}

TEST(LoadPacked, ThreadsChangeNoByte) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3_fp8");
  ThreadPool pool({.num_threads = 4});
  const std::string tensor = "model.layers.0.mlp.gate_proj.weight";
  const PackedMatrix one = *LoadPacked(*checkpoint, tensor, MatrixFormat::kBf16, nullptr);
  const PackedMatrix four = *LoadPacked(*checkpoint, tensor, MatrixFormat::kBf16, &pool);
  ASSERT_EQ(one.bytes(), four.bytes());
  for (int64_t i = 0; i < one.num_panels(); ++i) {
    EXPECT_EQ(std::memcmp(one.panel(i), four.panel(i), one.panel_bytes()), 0) << "panel " << i;
  }
}

TEST(LoadPacked, QuantisesFromWhatTheCheckpointHolds) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3_fp8");
  ThreadPool pool({.num_threads = 3});
  const std::string tensor = "model.layers.0.mlp.down_proj.weight";
  const std::vector<float> all = *checkpoint->ReadAll(tensor);
  for (const auto& [rule, format, steps] : {std::tuple{MatrixFormat::kQ8, WeightFormat::kQ8, 127},
                                            std::tuple{MatrixFormat::kQ4, WeightFormat::kQ4, 8}}) {
    const StatusOr<PackedMatrix> packed = LoadPacked(*checkpoint, tensor, rule, &pool);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->format(), format);
    std::vector<float> row(packed->k());
    for (int64_t n = 0; n < packed->n(); ++n) {
      packed->ReadRow(n, row.data());
      for (int64_t k = 0; k < packed->k(); k += 32) {
        const int64_t count = std::min<int64_t>(32, packed->k() - k);
        const float* exact = &all[n * packed->k() + k];
        float most = 0, error = 0;
        for (int64_t i = 0; i < count; ++i) {
          most = std::max(most, std::abs(exact[i]));
          error = std::max(error, std::abs(row[k + i] - exact[i]));
        }
        // Half a step, or a whole one where 4 bits have no code for +8; the scale's own rounding to
        // 8 bits moves the largest by up to 1 / 256.
        ASSERT_LE(error, most * ((steps == 8 ? 1.0f : 0.5f) / static_cast<float>(steps) + 0x1p-8f));
      }
    }
  }
}

TEST(LoadPacked, Fp8BlocksStayAsTheyAre) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3_fp8");
  ThreadPool pool({.num_threads = 3});
  for (const char* tensor :
       {"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.experts.0.up_proj.weight",
        "model.layers.2.self_attn.q_b_proj.weight"}) {
    const StatusOr<PackedMatrix> packed =
        LoadPacked(*checkpoint, tensor, MatrixFormat::kFp8, &pool);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->format(), WeightFormat::kFp8);
    ExpectRows(*checkpoint, tensor, *packed, /*rounded=*/false);
    const PackedMatrix alone = *LoadPacked(*checkpoint, tensor, MatrixFormat::kFp8, nullptr);
    for (int64_t i = 0; i < alone.num_panels(); ++i)
      EXPECT_EQ(std::memcmp(alone.panel(i), packed->panel(i), alone.panel_bytes()), 0) << i;
  }
}

// The rule that DeepSeek's own quantisation follows, by looking at every code.
TEST(LoadPacked, Fp8BlocksAreMadeOfBf16) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3_fp8");
  const std::string tensor = "model.layers.3.eh_proj.weight";
  const PackedMatrix packed = *LoadPacked(*checkpoint, tensor, MatrixFormat::kFp8, nullptr);
  const std::vector<float> all = *checkpoint->ReadAll(tensor);
  const int64_t n = packed.n(), k = packed.k();
  ASSERT_GT(n, 128) << "more than one block down";
  ASSERT_GT(k, 128) << "and across";
  std::vector<float> row(k);
  for (int64_t i = 0; i < n; ++i) {
    packed.ReadRow(i, row.data());
    for (int64_t j = 0; j < k; ++j) {
      float most = 0;
      for (int64_t r = i / 128 * 128; r < std::min(n, i / 128 * 128 + 128); ++r) {
        for (int64_t c = j / 128 * 128; c < std::min(k, j / 128 * 128 + 128); ++c)
          most = std::max(most, std::abs(all[r * k + c]));
      }
      const float scale = most / 448, wanted = all[i * k + j] / scale;
      float nearest = 0;
      for (int code = 0; code < 127; ++code) {
        const float value = std::copysign(F8E4M3ToF32(static_cast<uint8_t>(code)), wanted);
        const float closer = std::abs(value - wanted) - std::abs(nearest - wanted);
        if (closer < 0 || (closer == 0 && code % 2 == 0)) nearest = value;
      }
      ASSERT_EQ(row[j], nearest * scale) << i << " " << j;
    }
  }
}

TEST(LoadPacked, Fp8ScalesHaveALimit) {
  atl::testing::TempDir dir;
  const std::string from = atl::testing::GoldenCheckpointDir("v3");
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    ASSERT_TRUE(WriteFileAtomically(dir.path() + name, *ReadFile(from + name)).ok());
  }
  const std::string tensor = "model.layers.0.mlp.down_proj.weight";
  const model::TensorInfo info = *OpenGolden("v3")->Find(tensor);
  std::string bytes = *ReadFile(dir.File("model.safetensors"));
  bytes.replace(info.offset + 2 * (3 * info.shape[1] + 150), 2, "\xe0\x47");  // 114688
  ASSERT_TRUE(WriteFileAtomically(dir.File("model.safetensors"), bytes).ok());
  const std::unique_ptr<Checkpoint> checkpoint = *Checkpoint::Open(dir.path());
  const Status status = LoadPacked(*checkpoint, tensor, MatrixFormat::kFp8, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr(tensor));
  EXPECT_THAT(std::string(status.message()), HasSubstr("256 at [0, 1]"));
}

TEST(LoadPacked, Errors) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3");
  EXPECT_EQ(LoadPacked(*checkpoint, "nothing", MatrixFormat::kExact, nullptr).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(
      LoadPacked(*checkpoint, "model.norm.weight", MatrixFormat::kExact, nullptr).status().code(),
      absl::StatusCode::kInvalidArgument);
}

// NaN in several panels: the message names the first, however many threads met them.
TEST(LoadPacked, TheFirstBadPlaceIsNamed) {
  atl::testing::TempDir dir;
  const std::string from = atl::testing::GoldenCheckpointDir("v3");
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    ASSERT_TRUE(WriteFileAtomically(dir.path() + name, *ReadFile(from + name)).ok());
  }
  const std::string tensor = "model.embed_tokens.weight";
  const model::TensorInfo info = *OpenGolden("v3")->Find(tensor);
  std::string bytes = *ReadFile(dir.File("model.safetensors"));
  for (const int64_t row : {639, 400, 150})
    bytes.replace(info.offset + 2 * (row * 128 + 9), 2, "\xc0\x7f");
  ASSERT_TRUE(WriteFileAtomically(dir.File("model.safetensors"), bytes).ok());
  const std::unique_ptr<Checkpoint> checkpoint = *Checkpoint::Open(dir.path());
  ThreadPool pool({.num_threads = 4});
  for (int i = 0; i < 50; ++i) {
    const StatusOr<PackedMatrix> packed =
        LoadPacked(*checkpoint, tensor, MatrixFormat::kExact, &pool);
    ASSERT_EQ(packed.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(packed.status().message()), HasSubstr("NaN at [150, 9]"));
  }
}

TEST(LoadFfn, TakesTheThreeMatricesUnderAPrefix) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenGolden("v3");
  const std::string prefix =
      ExpertPrefix(checkpoint->config(), 2, checkpoint->config().shared_expert_id());
  const StatusOr<kernels::FfnWeights> ffn =
      LoadFfn(*checkpoint, prefix, MatrixFormat::kExact, nullptr);
  ASSERT_TRUE(ffn.ok()) << ffn.status();
  ExpectRows(*checkpoint, "model.layers.2.mlp.shared_experts.gate_proj.weight", ffn->gate, false);
  ExpectRows(*checkpoint, "model.layers.2.mlp.shared_experts.up_proj.weight", ffn->up, false);
  ExpectRows(*checkpoint, "model.layers.2.mlp.shared_experts.down_proj.weight", ffn->down, false);
  EXPECT_EQ(
      LoadFfn(*checkpoint, "model.layers.9.mlp.", MatrixFormat::kExact, nullptr).status().code(),
      absl::StatusCode::kNotFound);
}

// One pass reads gate and up, so they are of one format, whichever of them is the wider.
TEST(LoadFfn, GateAndUpOfDifferentTypes) {
  const std::string prefix = "model.layers.2.mlp.experts.3.";
  const std::string gate = prefix + "gate_proj.weight", up = prefix + "up_proj.weight",
                    down = prefix + "down_proj.weight";
  using Formats = std::vector<WeightFormat>;
  constexpr WeightFormat kF32 = WeightFormat::kF32, kBf16 = WeightFormat::kBf16;
  for (const auto& [wide, exact] : {std::pair{gate, Formats{kF32, kF32, kBf16}},
                                    {up, Formats{kF32, kF32, kBf16}},
                                    {down, Formats{kBf16, kBf16, kF32}}}) {
    SCOPED_TRACE(wide);
    atl::testing::TempDir dir;
    atl::testing::WriteMixedCheckpoint("v3", {wide}, dir.path());
    const std::unique_ptr<Checkpoint> checkpoint = *Checkpoint::Open(dir.path());
    ASSERT_EQ(checkpoint->Find(wide)->dtype, DType::kF32);
    for (const auto& [rule, formats] : {std::pair{MatrixFormat::kExact, exact},
                                        {MatrixFormat::kBf16, Formats(3, kBf16)},
                                        {MatrixFormat::kQ8, Formats(3, WeightFormat::kQ8)},
                                        {MatrixFormat::kQ4, Formats(3, WeightFormat::kQ4)},
                                        {MatrixFormat::kFp8, Formats(3, WeightFormat::kFp8)}}) {
      const StatusOr<kernels::FfnWeights> ffn = LoadFfn(*checkpoint, prefix, rule, nullptr);
      ASSERT_TRUE(ffn.ok()) << ffn.status();
      EXPECT_EQ((Formats{ffn->gate.format(), ffn->up.format(), ffn->down.format()}), formats);
      if (rule != MatrixFormat::kExact && rule != MatrixFormat::kBf16) continue;
      const bool rounded = rule == MatrixFormat::kBf16;
      ExpectRows(*checkpoint, gate, ffn->gate, rounded);
      ExpectRows(*checkpoint, up, ffn->up, rounded);
      ExpectRows(*checkpoint, down, ffn->down, rounded);
    }
  }
}

TEST(RoundingOf, OfTypes) {
  EXPECT_EQ(RoundingOf(DType::kF32), kernels::Rounding::kNone);
  EXPECT_EQ(RoundingOf(DType::kBf16), kernels::Rounding::kBf16);
  EXPECT_EQ(RoundingOf(model::Activations::kF32), kernels::Rounding::kNone);
  EXPECT_EQ(RoundingOf(model::Activations::kBf16), kernels::Rounding::kBf16);
  EXPECT_EQ(RoundingOf(model::Activations::kInt8), kernels::Rounding::kNone);
}

}  // namespace
}  // namespace atl::weights
