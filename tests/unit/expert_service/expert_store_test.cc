#include "expert_service/expert_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/support/golden.h"
#include "tests/support/mixed_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace atl::expert {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLayer = 2;
constexpr int32_t kShared = 16;

class ExpertStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = model::Checkpoint::Open(atl::testing::GoldenCheckpointDir("v3"));
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
  }
  ExpertStore MakeStore(int64_t budget = 0, const char* profile = "reference") {
    return ExpertStore(checkpoint_.get(), model::FindProfile(profile).value(), budget);
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
};

TEST_F(ExpertStoreTest, HoldsTheWeightsOfTheCheckpoint) {
  ExpertStore store = MakeStore();
  ThreadPool pool({.num_threads = 2});
  for (const int32_t e : {5, kShared}) {
    ASSERT_TRUE(store.Load({kLayer, e}, &pool).ok());
    const auto held = store.Find({kLayer, e});
    ASSERT_NE(held, nullptr);
    const std::string prefix =
        e == kShared ? "model.layers.2.mlp.shared_experts." : "model.layers.2.mlp.experts.5.";
    const std::pair<const char*, const kernels::PackedMatrix*> matrices[] = {
        {"gate_proj.weight", &held->weights.gate},
        {"up_proj.weight", &held->weights.up},
        {"down_proj.weight", &held->weights.down}};
    int64_t bytes = 0;
    for (const auto& [name, matrix] : matrices) {
      const std::vector<float> expected = checkpoint_->ReadAll(prefix + name).value();
      ASSERT_EQ(static_cast<int64_t>(expected.size()), matrix->n() * matrix->k());
      std::vector<float> row(matrix->k());
      for (int64_t n = 0; n < matrix->n(); ++n) {
        matrix->ReadRow(n, row.data());
        ASSERT_TRUE(std::equal(row.begin(), row.end(), expected.begin() + n * matrix->k()))
            << prefix << name << n;
      }
      bytes += matrix->bytes();
    }
    EXPECT_EQ(held->bytes, bytes);
    EXPECT_EQ(store.ExpertBytes(e == kShared), bytes);
  }
  EXPECT_EQ(store.bytes_held(), store.ExpertBytes(false) + store.ExpertBytes(true));
}

TEST_F(ExpertStoreTest, ExpertBytesFollowTheProfile) {
  // The golden checkpoint is bf16: both profiles pack two bytes a value, three matrices of 64 x
  // 128.
  EXPECT_EQ(MakeStore(0, "bf16").ExpertBytes(false), 3 * 64 * 128 * 2);
  EXPECT_EQ(MakeStore(0, "bf16").ExpertBytes(true), 3 * 64 * 128 * 2);
  // 8.5 and 4.5 bits a weight.
  EXPECT_EQ(MakeStore(0, "q8").ExpertBytes(false), 3 * 64 * 128 * 17 / 16);
  EXPECT_EQ(MakeStore(0, "q4").ExpertBytes(true), 3 * 64 * 128 * 9 / 16);
  auto fp8 = model::Checkpoint::Open(atl::testing::GoldenCheckpointDir("v3_fp8"));
  ASSERT_TRUE(fp8.ok()) << fp8.status();
  const int64_t f = (*fp8)->config().moe_intermediate_size, d = (*fp8)->config().hidden_size;
  const int64_t padded = 4 * (2 * ((f + 15) / 16 * 16) * d + (d + 15) / 16 * 16 * f);
  const ExpertStore exact(fp8->get(), model::FindProfile("reference").value(), 0);
  EXPECT_EQ(exact.ExpertBytes(false), padded) << "FP8 blocks become float32";
}

TEST_F(ExpertStoreTest, ExpertBytesOfMixedTypesAreThoseHeld) {
  const model::ModelConfig& config = checkpoint_->config();
  int32_t layer = 0;
  while (!config.is_moe_layer(layer)) ++layer;
  for (const char* wide : {"gate_proj.weight", "up_proj.weight", "down_proj.weight"}) {
    atl::testing::TempDir dir;
    atl::testing::WriteMixedCheckpoint("v3", {model::ExpertPrefix(config, layer, 0) + wide},
                                       dir.path());
    const auto mixed = *model::Checkpoint::Open(dir.path());
    ExpertStore store(mixed.get(), model::FindProfile("reference").value(), 0);
    ASSERT_TRUE(store.Load({layer, 0}, nullptr).ok());
    const kernels::FfnWeights& w = store.Find({layer, 0})->weights;
    const int64_t bytes = w.gate.bytes() + w.up.bytes() + w.down.bytes();
    EXPECT_EQ(store.ExpertBytes(false), bytes) << wide;
    EXPECT_EQ(store.bytes_held(), bytes) << wide;
  }
}

TEST_F(ExpertStoreTest, VersionListAndUnload) {
  ExpertStore store = MakeStore();
  EXPECT_EQ(store.version(), 0u);
  ASSERT_TRUE(store.Load({3, 1}, nullptr).ok());
  ASSERT_TRUE(store.Load({kLayer, kShared}, nullptr).ok());
  ASSERT_TRUE(store.Load({4, 0}, nullptr).ok()) << "the MTP layer";
  EXPECT_EQ(store.version(), 3u);
  ASSERT_TRUE(store.Load({3, 1}, nullptr).ok());
  EXPECT_EQ(store.version(), 3u) << "nothing changed";

  std::vector<ExpertKey> keys;
  for (const auto& [key, expert] : store.List()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<ExpertKey>{{kLayer, kShared}, {3, 1}, {4, 0}}));

  const auto reader = store.Find({3, 1});
  ASSERT_TRUE(store.Unload({3, 1}).ok());
  EXPECT_EQ(store.version(), 4u);
  EXPECT_EQ(store.Find({3, 1}), nullptr);
  EXPECT_FALSE(reader->weights.gate.empty()) << "a reader keeps what it found";
  EXPECT_EQ(store.Unload({3, 1}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store.version(), 4u);
  EXPECT_EQ(store.bytes_held(), 2 * store.ExpertBytes(false))
      << "shared and routed are of one size here";
}

TEST_F(ExpertStoreTest, ExpertsThatTheModelLacksAreRefused) {
  ExpertStore store = MakeStore();
  for (const ExpertKey key :
       {ExpertKey{1, 0}, ExpertKey{5, 0}, ExpertKey{-1, 0}, ExpertKey{2, 17}, ExpertKey{2, -1}}) {
    EXPECT_EQ(store.Load(key, nullptr).code(), absl::StatusCode::kInvalidArgument)
        << key.layer << " " << key.expert;
    EXPECT_EQ(store.Find(key), nullptr);
    EXPECT_EQ(store.Unload(key).code(), absl::StatusCode::kNotFound);
  }
}

TEST_F(ExpertStoreTest, BudgetHolds) {
  ExpertStore store = MakeStore(2 * MakeStore().ExpertBytes(false) + 1);
  EXPECT_TRUE(store.Load({kLayer, 0}, nullptr).ok());
  EXPECT_TRUE(store.Load({kLayer, 1}, nullptr).ok());
  EXPECT_EQ(store.Load({kLayer, 2}, nullptr).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store.Load({kLayer, 1}, nullptr).ok()) << "held already";
  ASSERT_TRUE(store.Unload({kLayer, 0}).ok());
  EXPECT_TRUE(store.Load({kLayer, 2}, nullptr).ok());
}

TEST_F(ExpertStoreTest, NanInTheWeightsIsNotHeldAndNamesTheTensor) {
  const atl::testing::TempDir dir;
  std::filesystem::copy(checkpoint_->dir(), dir.path(), std::filesystem::copy_options::recursive);
  const std::string tensor = "model.layers.2.mlp.experts.3.up_proj.weight";
  const model::TensorInfo* info = checkpoint_->Find(tensor);
  ASSERT_EQ(info->dtype, DType::kBf16);
  {
    std::string file;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
      if (entry.path().extension() == ".safetensors") file = entry.path();
    }
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(info->offset + 2 * 777);
    stream.write("\xc0\x7f", 2);  // a bf16 NaN
    ASSERT_TRUE(stream.good());
  }
  auto damaged = model::Checkpoint::Open(dir.path());
  ASSERT_TRUE(damaged.ok()) << damaged.status();
  ExpertStore store(damaged->get(), model::FindProfile("reference").value(), 0);
  const Status status = store.Load({kLayer, 3}, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(tensor));
  EXPECT_EQ(store.Find({kLayer, 3}), nullptr);
  EXPECT_EQ(store.bytes_held(), 0);
  EXPECT_EQ(store.version(), 0u);
  EXPECT_TRUE(store.Load({kLayer, 4}, nullptr).ok());
}

TEST_F(ExpertStoreTest, LoadingUnloadingAndReadingSideBySide) {
  ExpertStore store = MakeStore();
  const std::vector<float> expected =
      checkpoint_->ReadAll("model.layers.2.mlp.experts.0.gate_proj.weight").value();
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    std::vector<float> row(128);
    while (!stop.load()) {
      if (const auto held = store.Find({kLayer, 0})) {
        held->weights.gate.ReadRow(63, row.data());
        EXPECT_TRUE(std::equal(row.begin(), row.end(), expected.begin() + 63 * 128));
      }
    }
  });
  std::thread rival([&] {
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(store.Load({kLayer, 0}, nullptr).ok());
  });
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(store.Load({kLayer, 0}, nullptr).ok());
    store.Unload({kLayer, 0}).IgnoreError();  // the rival's Load may come between or not
  }
  rival.join();
  stop.store(true);
  reader.join();
  store.Unload({kLayer, 0}).IgnoreError();
  EXPECT_EQ(store.bytes_held(), 0);
}

}  // namespace
}  // namespace atl::expert
