// Where weights come from changes no bit: made from the checkpoint, copied from a packed cache, or
// mapped.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "local/local_stack.h"
#include "tests/support/generate.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

namespace atl {
namespace {

using ::atl::local::LocalStack;
using ::atl::local::LocalStackOptions;
using ::atl::testing::Answer;
using ::atl::testing::Difference;

class PackedCacheExactnessTest
    : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  std::unique_ptr<LocalStack> Open(const weights::PackedCacheOptions& packed_cache) {
    return Open(packed_cache, std::get<1>(GetParam()));
  }
  std::unique_ptr<LocalStack> Open(const weights::PackedCacheOptions& packed_cache,
                                   const std::string& profile) {
    const std::string& model = std::get<0>(GetParam());
    LocalStackOptions options;
    options.model_dir = model == "demo" ? ::atl::testing::DemoModelDir()
                                        : ::atl::testing::GoldenCheckpointDir(model);
    options.profile = profile;
    options.threads = 2;
    options.num_expert_nodes = 2;
    options.packed_cache = packed_cache;
    auto stack = LocalStack::Open(options);
    EXPECT_TRUE(stack.ok()) << stack.status();
    return stack.ok() ? *std::move(stack) : nullptr;
  }

  // Greedy and drawn, with logprobs.
  static std::vector<Answer> Ask(LocalStack* stack) {
    std::vector<uint32_t> prompt(70);
    uint32_t x = 4711;
    for (uint32_t& id : prompt) {
      x = x * 1664525 + 1013904223;
      id = (x >> 8) % static_cast<uint32_t>(stack->checkpoint().config().vocab_size);
    }
    stack->Start();
    std::vector<Answer> answers = ::atl::testing::RunAll(
        stack->engine(),
        {::atl::testing::MakeStart(stack->checkpoint(), stack->profile(), prompt, 12),
         ::atl::testing::MakeSampledStart(stack->checkpoint(), stack->profile(), prompt, 12, 5)});
    stack->Stop();
    return answers;
  }
};

TEST_P(PackedCacheExactnessTest, ColdWarmAndMapped) {
  ::atl::testing::TempDir dir;
  const auto plain = Open({});
  ASSERT_NE(plain, nullptr);
  const std::vector<Answer> expected = Ask(plain.get());
  EXPECT_EQ(expected[0].ids.size(), 12);
  const int64_t bytes = plain->packed_cache().stats().total();
  EXPECT_EQ(plain->packed_cache().stats().made, bytes);
  struct Case {
    std::string name;
    bool map;
    int64_t made, copied, mapped;
  };
  for (const Case& c : {Case{"cold", false, bytes, 0, 0}, Case{"warm", false, 0, bytes, 0},
                        Case{"mapped", true, 0, 0, bytes}}) {
    const auto stack = Open({.dir = dir.path(), .map = c.map});
    ASSERT_NE(stack, nullptr);
    const weights::PackedCacheStats& stats = stack->packed_cache().stats();
    EXPECT_EQ(stats.made, c.made) << c.name;
    EXPECT_EQ(stats.copied, c.copied) << c.name;
    EXPECT_EQ(stats.mapped, c.mapped) << c.name;
    const std::vector<Answer> found = Ask(stack.get());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(Difference(expected[i], found[i]), "") << c.name << " " << i;
  }
  std::filesystem::remove_all(dir.path());
  std::filesystem::create_directory(dir.path());
  const auto cold_mapped = Open({.dir = dir.path(), .map = true});
  ASSERT_NE(cold_mapped, nullptr);
  EXPECT_EQ(cold_mapped->packed_cache().stats().made, bytes);
  const std::vector<Answer> found = Ask(cold_mapped.get());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(Difference(expected[i], found[i]), "") << "cold and mapped " << i;
}

// Suffixes change no weights, and with +expanded there are more of them.
TEST_P(PackedCacheExactnessTest, ProfilesThatDifferInSuffixesShare) {
  ::atl::testing::TempDir dir;
  const std::string profile = std::get<1>(GetParam());
  const auto plain = Open({.dir = dir.path()});
  ASSERT_NE(plain, nullptr);
  const int64_t bytes = plain->packed_cache().stats().made;
  const auto cached = Open({.dir = dir.path()}, profile + "+fp8cache");
  ASSERT_NE(cached, nullptr);
  EXPECT_EQ(cached->packed_cache().stats().copied, bytes);
  EXPECT_EQ(cached->packed_cache().stats().made, 0);
  const auto expanded = Open({}, profile + "+expanded");
  ASSERT_NE(expanded, nullptr);
  const std::vector<Answer> expected = Ask(expanded.get());
  for (const bool first : {true, false}) {
    const auto shared = Open({.dir = dir.path()}, profile + "+expanded");
    ASSERT_NE(shared, nullptr);
    const weights::PackedCacheStats& stats = shared->packed_cache().stats();
    EXPECT_EQ(stats.total(), expanded->packed_cache().stats().made);
    EXPECT_GT(stats.total(), bytes);
    EXPECT_EQ(stats.copied, first ? bytes : stats.total());
    const std::vector<Answer> found = Ask(shared.get());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(Difference(expected[i], found[i]), "") << first << " " << i;
  }
}

// demo: FP8 blocks, dense layers, MTP; v2_lite: no q_lora; tied: the head is the embedding.
INSTANTIATE_TEST_SUITE_P(
    Models, PackedCacheExactnessTest,
    ::testing::Combine(::testing::Values("demo", "v2_lite", "tied"),
                       ::testing::Values("reference", "bf16", "fp8w", "q8", "q4")),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::get<1>(info.param); });

}  // namespace
}  // namespace atl
