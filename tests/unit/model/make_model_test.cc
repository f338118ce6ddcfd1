#include "model/make_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "base/file.h"
#include "model/checkpoint.h"
#include "model/config_json.h"
#include "model/presets.h"
#include "model/random_weights.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

namespace atl::model {
namespace {

using ::testing::HasSubstr;

// V3's architecture, all of its parts, in half a million parameters; 160, 200 and 24 leave partial
// FP8 blocks.
ModelConfig Tiny(const std::string& preset = "v3") {
  const StatusOr<ModelConfig> c =
      OverrideConfig(*FindPreset(preset), {{"hidden_size", "160"},
                                           {"num_hidden_layers", "3"},
                                           {"first_k_dense_replace", "1"},
                                           {"num_attention_heads", "4"},
                                           {"vocab_size", "300"},
                                           {"intermediate_size", "200"},
                                           {"moe_intermediate_size", "24"},
                                           {"n_routed_experts", "16"},
                                           {"kv_lora_rank", "48"},
                                           {"q_lora_rank", "64"},
                                           {"qk_nope_head_dim", "16"},
                                           {"qk_rope_head_dim", "8"},
                                           {"v_head_dim", "16"},
                                           {"max_position_embeddings", "512"},
                                           {"bos_token_id", "0"},
                                           {"eos_token_id", "1"}});
  EXPECT_TRUE(c.ok()) << c.status();
  return *c;
}

class MakeModelTest : public ::testing::Test {
 protected:
  std::unique_ptr<Checkpoint> Make(const MakeModelOptions& options, const std::string& name) {
    const StatusOr<MadeModel> made = MakeModel(options, dir_.File(name));
    EXPECT_TRUE(made.ok()) << made.status();
    StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(dir_.File(name));
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }

  atl::testing::TempDir dir_;
};

void ExpectSameTensors(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, tensor] : a.tensors()) {
    ASSERT_NE(b.Find(name), nullptr) << name;
    EXPECT_EQ(b.Find(name)->dtype, tensor.dtype) << name;
    EXPECT_EQ(*a.ReadAll(name), *b.ReadAll(name)) << name;
  }
}

TEST_F(MakeModelTest, EveryTypeOpensAndHoldsTheSameNumbersRounded) {
  const ModelConfig config = Tiny();
  const auto exact = Make({.config = config, .dtype = DType::kF32}, "f32");
  EXPECT_EQ(exact->total_params(), CountParams(config).total);
  // Relative half steps of the types' mantissas; FP8 also has an absolute step: a block's largest
  // value / 448 * 2^-10.
  const std::vector<std::tuple<DType, const char*, double>> kTypes = {
      {DType::kBf16, "bf16", 1.0 / 256},
      {DType::kF16, "f16", 1.0 / 2048},
      {DType::kF8E4M3, "fp8", 1.0 / 16}};
  for (const auto& [dtype, name, relative] : kTypes) {
    const auto made = Make({.config = config, .dtype = dtype}, name);
    EXPECT_EQ(made->config().fp8, dtype == DType::kF8E4M3);
    int64_t different = 0;
    for (const auto& [tensor, info] : exact->tensors()) {
      const std::vector<float> a = *exact->ReadAll(tensor);
      const std::vector<float> b = *made->ReadAll(tensor);
      float largest = 0;
      for (const float v : a) largest = std::max(largest, std::fabs(v));
      for (int64_t i = 0; i < a.size(); ++i) {
        const double step = dtype == DType::kF8E4M3 ? largest / 448 / 1024 : 1e-7;
        ASSERT_NEAR(b[i], a[i], std::fabs(a[i]) * relative * 1.0001 + step)
            << tensor << " element " << i;
        different += a[i] != b[i];
      }
    }
    EXPECT_GT(different, 1000) << "the type rounds";
  }
}

TEST_F(MakeModelTest, Fp8IsWherePublishedCheckpointsHaveIt) {
  const auto made = Make({.config = Tiny(), .dtype = DType::kF8E4M3}, "m");
  const auto golden = *Checkpoint::Open(atl::testing::GoldenCheckpointDir("v3_fp8"));
  for (const auto& [name, tensor] : made->tensors()) {
    const TensorInfo* same = golden->Find(name);
    ASSERT_NE(same, nullptr) << name;
    EXPECT_EQ(tensor.dtype_name, same->dtype_name) << name;
  }
  EXPECT_EQ(made->tensors().size(), golden->tensors().size());
}

TEST_F(MakeModelTest, BytesDependOnSeedAndNameAlone) {
  ThreadPool pool({.num_threads = 4});
  for (const DType dtype : {DType::kBf16, DType::kF8E4M3}) {
    const std::string name = DTypeName(dtype);
    const auto one = Make({.config = Tiny(), .dtype = dtype, .seed = 7}, name + "one");
    const auto sharded = Make(
        {.config = Tiny(), .dtype = dtype, .seed = 7, .max_shard_bytes = 100'000, .pool = &pool},
        name + "sharded");
    EXPECT_TRUE(FileExists(sharded->dir() + "/model.safetensors.index.json"));
    EXPECT_FALSE(FileExists(sharded->dir() + "/model.safetensors"));
    ExpectSameTensors(*one, *sharded);
    for (const auto& entry : std::filesystem::directory_iterator(sharded->dir())) {
      EXPECT_LT(entry.file_size(), 130'000) << entry.path();
      EXPECT_NE(entry.path().extension(), ".part");
    }
    const auto again =
        Make({.config = Tiny(), .dtype = dtype, .seed = 7, .pool = &pool}, name + "again");
    EXPECT_EQ(again->revision(), one->revision());
    const auto other = Make({.config = Tiny(), .dtype = dtype, .seed = 8}, name + "other");
    EXPECT_NE(*other->ReadAll("lm_head.weight"), *one->ReadAll("lm_head.weight"));
  }
}

TEST_F(MakeModelTest, MtpCopiesEmbeddingAndHead) {
  const auto made = Make({.config = Tiny()}, "m");
  EXPECT_EQ(*made->ReadAll("model.layers.3.embed_tokens.weight"),
            *made->ReadAll("model.embed_tokens.weight"));
  EXPECT_EQ(*made->ReadAll("model.layers.3.shared_head.head.weight"),
            *made->ReadAll("lm_head.weight"));
  EXPECT_NE(*made->ReadAll("model.layers.1.mlp.experts.0.up_proj.weight"),
            *made->ReadAll("model.layers.1.mlp.experts.1.up_proj.weight"));
}

TEST_F(MakeModelTest, TiedHeadIsLeftOut) {
  ModelConfig config = *OverrideConfig(Tiny(), {{"tie_word_embeddings", "true"}});
  const auto made = Make({.config = config}, "m");
  EXPECT_EQ(made->Find("lm_head.weight"), nullptr);
  EXPECT_EQ(*made->ReadAll("model.layers.3.shared_head.head.weight"),
            *made->ReadAll("model.embed_tokens.weight"));
}

TEST_F(MakeModelTest, V2HasNoBias) {
  const auto made = Make({.config = Tiny("v2")}, "m");
  EXPECT_EQ(made->Find("model.layers.1.mlp.gate.e_score_correction_bias"), nullptr);
  EXPECT_EQ(made->config().topk_method, "group_limited_greedy");
}

TEST_F(MakeModelTest, TokenizerIsCopiedAndFitted) {
  const std::string demo = atl::testing::DemoModelDir();
  ModelConfig config = Tiny();
  config.vocab_size = 129280;
  config.eos_token_ids = {129000};
  const auto made = Make({.config = config, .tokenizer_dir = demo}, "m");
  EXPECT_EQ(made->config().vocab_size, 2048);
  EXPECT_EQ(made->config().eos_token_ids, std::vector<uint32_t>{1});
  EXPECT_EQ(made->config().bos_token_id, 0u);
  for (const char* name : {"/tokenizer.json", "/tokenizer_config.json"}) {
    EXPECT_EQ(*ReadFile(made->dir() + name), *ReadFile(demo + name));
  }
}

TEST_F(MakeModelTest, VocabularyIsRoundedUpToAPanel) {
  const std::string dir = dir_.File("tokenizer");
  std::filesystem::create_directory(dir);
  ASSERT_TRUE(
      WriteFileAtomically(
          dir + "/tokenizer.json",
          R"({"model": {"vocab": {"a": 0, "b": 30}}, "added_tokens": [{"id": 32, "content": "</s>"}]})")
          .ok());
  ASSERT_TRUE(WriteFileAtomically(dir + "/tokenizer_config.json",
                                  R"({"eos_token": {"content": "</s>"}, "bos_token": null})")
                  .ok());
  const auto made = Make({.config = Tiny(), .tokenizer_dir = dir}, "m");
  EXPECT_EQ(made->config().vocab_size, 48);
  EXPECT_EQ(made->config().eos_token_ids, std::vector<uint32_t>{32});
  EXPECT_FALSE(made->config().bos_token_id.has_value());
}

TEST_F(MakeModelTest, BadTokenizersAreRefused) {
  const std::string dir = dir_.File("tokenizer");
  const MakeModelOptions options = {.config = Tiny(), .tokenizer_dir = dir};
  EXPECT_EQ(MakeModel(options, dir_.File("m")).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directory(dir);
  for (const char* text :
       {"{", "{}", R"({"model": {"vocab": []}})", R"({"model": {"vocab": {"a": -1}}})",
        R"({"model": {"vocab": {"a": "0"}}})", R"({"model": {"vocab": {"a": 1099511627776}}})",
        R"({"model": {"vocab": {}}, "added_tokens": [1]})"}) {
    ASSERT_TRUE(WriteFileAtomically(dir + "/tokenizer.json", text).ok());
    EXPECT_EQ(MakeModel(options, dir_.File("m")).status().code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
  ASSERT_TRUE(
      WriteFileAtomically(dir + "/tokenizer.json", R"({"model": {"vocab": {"a": 0}}})").ok());
  ASSERT_TRUE(WriteFileAtomically(dir + "/tokenizer_config.json", R"({"eos_token": "b"})").ok());
  const Status status = MakeModel(options, dir_.File("m")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("eos_token 'b'"));
  EXPECT_FALSE(FileExists(dir_.File("m"))) << "nothing is written before everything is checked";
}

TEST_F(MakeModelTest, RefusesAFolderThatHasAModel) {
  Make({.config = Tiny()}, "m");
  EXPECT_EQ(MakeModel({.config = Tiny()}, dir_.File("m")).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(MakeModelTest, RefusesConfigurationsThatCannotBeServed) {
  EXPECT_EQ(MakeModel({.config = *FindPreset("deepseek-moe-16b")}, dir_.File("m")).status().code(),
            absl::StatusCode::kUnimplemented);
  ModelConfig odd = Tiny();
  odd.qk_rope_head_dim = 7;
  EXPECT_EQ(MakeModel({.config = odd}, dir_.File("m")).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeModel({.config = Tiny(), .max_shard_bytes = 0}, dir_.File("m")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MakeModelTest, AFolderThatCannotBeMadeIsAnError) {
  ASSERT_TRUE(WriteFileAtomically(dir_.File("m"), "x").ok());
  EXPECT_FALSE(MakeModel({.config = Tiny()}, dir_.File("m")).ok());
}

TEST_F(MakeModelTest, AModelLargerThanTheDiskIsRefusedBeforeAnythingIsWritten) {
  MakeModelOptions options = {.config = *FindPreset("v3")};  // 1.3 TB in bf16
  options.stop = [] { return true; };                        // where a disk has that
  const Status status = MakeModel(options, dir_.File("m")).status();
  if (std::filesystem::space(dir_.path()).available > 1'350'000'000'000) {
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  } else {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the disk has room for"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("m")));
}

TEST_F(MakeModelTest, WhatIsStoppedLeavesNoUnfinishedFile) {
  std::atomic<int> asked = 0;
  MakeModelOptions options = {.config = Tiny()};
  options.stop = [&] { return ++asked > 3; };
  EXPECT_TRUE(absl::IsCancelled(MakeModel(options, dir_.File("m")).status()));
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("m")));
}

TEST_F(MakeModelTest, ProgressEndsAtTheTotal) {
  int64_t last = -1, total = 0;
  MakeModelOptions options = {.config = Tiny(), .max_shard_bytes = 200'000};
  options.progress = [&](int64_t done, int64_t of) {
    EXPECT_GT(done, last);
    last = done;
    total = of;
  };
  const StatusOr<MadeModel> made = MakeModel(options, dir_.File("m"));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, made->total_bytes);
  EXPECT_GT(made->num_files, 3);
}

TEST(RandomWeights, HaveTheSpreadTheyPromise) {
  constexpr int64_t kCount = 1 << 20;
  std::vector<float> z(kCount);
  FillRandom(TensorKey(1, "a"), 0, kCount, 5, 2, z.data());
  double sum = 0, squares = 0, lag = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const double v = (z[i] - 5) / 2;
    ASSERT_LT(std::fabs(v), 3.47);
    sum += v;
    squares += v * v;
    if (i > 0) lag += v * (z[i - 1] - 5) / 2;
  }
  // Five standard errors: 1 / sqrt(count) for mean and lag, sqrt(kurtosis - 1 = 1.7) / sqrt(count)
  // for the variance.
  EXPECT_NEAR(sum / kCount, 0, 5.0 / 1024);
  EXPECT_NEAR(squares / kCount, 1, 7.0 / 1024);
  EXPECT_NEAR(lag / kCount, 0, 5.0 / 1024);
}

TEST(RandomWeights, AnyPartOfATensorIsThatPart) {
  std::vector<float> whole(1000), part(100);
  const uint64_t key = TensorKey(3, "model.norm.weight");
  FillRandom(key, 0, 1000, 1, 0.5f, whole.data());
  FillRandom(key, 321, 100, 1, 0.5f, part.data());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 321));
  EXPECT_NE(TensorKey(3, "a"), TensorKey(4, "a"));
  EXPECT_NE(TensorKey(3, "a"), TensorKey(3, "b"));
}

// y = W x in float64.
std::vector<double> MatVec(const std::vector<float>& w, const std::vector<double>& x) {
  std::vector<double> y(w.size() / x.size());
  for (size_t n = 0; n < y.size(); ++n) {
    for (size_t k = 0; k < x.size(); ++k) y[n] += w[n * x.size() + k] * x[k];
  }
  return y;
}

TEST_F(MakeModelTest, AFeedForwardKeepsTheSizeOfItsInput) {
  const auto made = Make({.config = Tiny()}, "m");
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  double squares = 0;
  int64_t count = 0;
  for (int t = 0; t < 20; ++t) {
    std::vector<double> x(160);
    for (double& v : x) v = normal(random);
    const std::string prefix = "model.layers.0.mlp.";
    std::vector<double> gate = MatVec(*made->ReadAll(prefix + "gate_proj.weight"), x);
    const std::vector<double> up = MatVec(*made->ReadAll(prefix + "up_proj.weight"), x);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    for (const double v : MatVec(*made->ReadAll(prefix + "down_proj.weight"), gate))
      squares += v * v, ++count;
  }
  EXPECT_GT(std::sqrt(squares / count), 0.6);
  EXPECT_LT(std::sqrt(squares / count), 1.7);
}

}  // namespace
}  // namespace atl::model
