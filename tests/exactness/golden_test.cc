// P2, fidelity: logits, choices and tokens against the stored reference (tools/golden/README.md has
// the tolerances).
#include "tests/support/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "local/offline_forward.h"
#include "tests/support/generate.h"
#include "tests/support/temp_dir.h"

namespace atl {
namespace {

using ::atl::testing::Golden;
using local::LocalStack;
using local::LocalStackOptions;
using local::OfflineForward;

constexpr int64_t kMaxPositions = 640;

std::unique_ptr<LocalStack> OpenStack(const std::string& dir, const std::string& profile,
                                      bool with_mtp = false) {
  LocalStackOptions options;
  options.model_dir = dir;
  options.profile = profile;
  options.with_mtp = with_mtp;
  options.dispatch = "inline";
  auto stack = LocalStack::Open(options);
  EXPECT_TRUE(stack.ok()) << stack.status();
  return stack.ok() ? *std::move(stack) : nullptr;
}

std::vector<uint32_t> Ids(const std::vector<int64_t>& values) {
  return {values.begin(), values.end()};
}

// Distance of found logits [T, V] from the stored top 16 of every position and the whole vector of
// the last.
struct Distance {
  double max = 0;
  double rms = 0;
  double median_position_rms = 0;
  double top1 =
      1;  // share of positions with a margin over 0.5 whose largest logit is the expected one
};

Distance Measure(const Golden& golden, const std::string& prompt, const std::vector<float>& logits,
                 int64_t vocab) {
  const auto& top_ids = golden.I64(prompt + ".top_ids");
  const auto& top_logits = golden.F32(prompt + ".top_logits");
  const auto& last = golden.F32(prompt + ".last_logits");
  const int64_t total = top_ids.size() / 16;
  Distance distance;
  double sum = 0;
  int64_t count = 0, decided = 0, agreed = 0;
  std::vector<double> position_rms;
  const auto add = [&](double difference) {
    distance.max = std::max(distance.max, std::abs(difference));
    sum += difference * difference;
    ++count;
    return difference * difference;
  };
  for (int64_t t = 0; t < total; ++t) {
    const float* row = logits.data() + t * vocab;
    double position_sum = 0;
    for (int64_t i = 0; i < 16; ++i)
      position_sum += add(row[top_ids[t * 16 + i]] - top_logits[t * 16 + i]);
    position_rms.push_back(std::sqrt(position_sum / 16));
    if (top_logits[t * 16] - top_logits[t * 16 + 1] > 0.5) {
      ++decided;
      agreed += std::max_element(row, row + vocab) - row == top_ids[t * 16];
    }
  }
  for (int64_t i = 0; i < vocab; ++i) add(logits[(total - 1) * vocab + i] - last[i]);
  distance.rms = std::sqrt(sum / count);
  std::nth_element(position_rms.begin(), position_rms.begin() + position_rms.size() / 2,
                   position_rms.end());
  distance.median_position_rms = position_rms[position_rms.size() / 2];
  if (decided > 0) distance.top1 = static_cast<double>(agreed) / decided;
  return distance;
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto golden = ::atl::testing::LoadGolden(GetParam());
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
    dir_ = ::atl::testing::GoldenCheckpointDir(GetParam());
  }
  std::vector<std::string> Prompts() const {
    std::vector<std::string> names;
    for (const auto& prompt : golden_.json["prompts"]) names.push_back(prompt["name"]);
    return names;
  }
  std::vector<uint32_t> PromptIds(const std::string& name) const {
    return Ids(golden_.I64(name + ".input_ids"));
  }

  Golden golden_;
  std::string dir_;
};

TEST_P(GoldenTest, ReferenceLogits) {
  auto stack = OpenStack(dir_, "reference");
  ASSERT_NE(stack, nullptr);
  OfflineForward forward(stack.get(), kMaxPositions);
  for (const std::string& prompt : Prompts()) {
    std::vector<float> logits;
    ASSERT_TRUE(forward.Logits(PromptIds(prompt), 512, &logits).ok());
    const Distance d = Measure(golden_, prompt, logits, stack->checkpoint().config().vocab_size);
    EXPECT_LE(d.max, 1e-3) << prompt;
    EXPECT_LE(d.rms, 1e-4) << prompt;
  }
}

TEST_P(GoldenTest, ReferenceHiddenStatesAndRouterChoices) {
  auto stack = OpenStack(dir_, "reference");
  ASSERT_NE(stack, nullptr);
  const std::string prompt = golden_.json["detail_prompt"];
  const auto& hidden = golden_.F32("detail.hidden");
  const std::vector<uint32_t> ids = PromptIds(prompt);
  const int64_t size = ids.size() * stack->checkpoint().config().hidden_size;
  const int64_t k = stack->checkpoint().config().num_experts_per_tok;
  OfflineForward forward(stack.get(), kMaxPositions);
  int layers_seen = 0, routers_seen = 0;
  int64_t row_in_layer = 0;
  forward.runner()->SetHiddenHookForTest([&](int64_t layer, const float* found, int64_t rows) {
    // Micro-batches of one layer come one after the other.
    const int64_t values = rows * stack->checkpoint().config().hidden_size;
    if (layer != layers_seen) {
      layers_seen = static_cast<int>(layer);
      row_in_layer = 0;
    }
    for (int64_t i = 0; i < values; ++i) {
      ASSERT_NEAR(found[i], hidden[layer * size + row_in_layer + i], 5e-4)
          << "layer " << layer << " value " << i;
    }
    row_in_layer += values;
  });
  std::map<int32_t, int64_t> seen_rows;
  stack->dispatcher()->SetRouteHookForTest(
      [&](int32_t layer, int64_t rows, int32_t* expert_id, float* weight, bool*) {
        const std::string key = absl::StrFormat("detail.router.%d.", layer);
        const auto& expected_ids = golden_.I64(key + "ids");
        const auto& expected_weights = golden_.F32(key + "weights");
        int64_t& first = seen_rows[layer];
        for (int64_t i = 0; i < rows * k; ++i) {
          ASSERT_EQ(expert_id[i], expected_ids[first * k + i]) << key << " " << i;
          ASSERT_NEAR(weight[i], expected_weights[first * k + i],
                      1e-4 * std::abs(expected_weights[first * k + i]))
              << key;
        }
        first += rows;
        ++routers_seen;
      });
  std::vector<float> logits, final_hidden;
  ASSERT_TRUE(forward.Logits(ids, 512, &logits, &final_hidden).ok());
  EXPECT_EQ(layers_seen, stack->checkpoint().config().num_hidden_layers);
  EXPECT_GT(routers_seen, 0);
  for (const auto& [layer, rows] : seen_rows) EXPECT_EQ(rows, ids.size()) << layer;
  const auto& final = golden_.F32("detail.final");
  for (size_t i = 0; i < final.size(); ++i) ASSERT_NEAR(final_hidden[i], final[i], 5e-4) << i;
}

TEST_P(GoldenTest, ReferencePromptLogprobs) {
  auto stack = OpenStack(dir_, "reference");
  ASSERT_NE(stack, nullptr);
  stack->Start();
  const auto& expected = golden_.F32("logprob.values");
  auto start = ::atl::testing::MakeStart(stack->checkpoint(), stack->profile(),
                                         PromptIds(golden_.json["logprob_prompt"]), 0);
  start.set_prompt_logprobs(0);
  const auto answer = ::atl::testing::RunOne(stack->engine(), start);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  ASSERT_EQ(answer.prompt_logprobs.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(answer.prompt_logprobs[i], expected[i], 3e-4) << i;
}

TEST_P(GoldenTest, ReferenceGreedyTokens) {
  auto stack = OpenStack(dir_, "reference");
  ASSERT_NE(stack, nullptr);
  stack->Start();
  int compared = 0;
  for (const std::string& prompt : Prompts()) {
    const auto& expected = golden_.I64(prompt + ".greedy_ids");
    const auto& margin = golden_.F32(prompt + ".greedy_margin");
    const auto answer = ::atl::testing::RunOne(
        stack->engine(), ::atl::testing::MakeStart(stack->checkpoint(), stack->profile(),
                                                   PromptIds(prompt), expected.size()));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ASSERT_EQ(answer.ids.size(), expected.size());
    for (size_t i = 0; i < expected.size() && margin[i] > 2e-3; ++i, ++compared) {
      ASSERT_EQ(answer.ids[i], expected[i]) << prompt << " token " << i;
    }
  }
  EXPECT_GT(compared, 100);
}

class MtpTest : public GoldenTest {};

TEST_P(MtpTest, ReferenceLogits) {
  ASSERT_TRUE(golden_.Has("mtp.logits"));
  auto stack = OpenStack(dir_, "reference", /*with_mtp=*/true);
  ASSERT_NE(stack, nullptr);
  OfflineForward forward(stack.get(), kMaxPositions);
  std::vector<float> logits;
  ASSERT_TRUE(forward.MtpLogits(Ids(golden_.I64("mtp.input_ids")), &logits).ok());
  const auto& expected = golden_.F32("mtp.logits");
  ASSERT_EQ(logits.size(), expected.size());
  double sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(logits[i], expected[i], 1e-3) << i;
    sum += (logits[i] - expected[i]) * (logits[i] - expected[i]);
  }
  EXPECT_LE(std::sqrt(sum / expected.size()), 1e-4);
}

TEST_P(GoldenTest, Bf16WithExpertsForced) {
  auto stack = OpenStack(dir_, "bf16");
  ASSERT_NE(stack, nullptr);
  const int64_t k = stack->checkpoint().config().num_experts_per_tok;
  std::map<int32_t, int64_t> seen_rows;
  stack->dispatcher()->SetRouteHookForTest(
      [&](int32_t layer, int64_t rows, int32_t* expert_id, float*, bool* replaced) {
        const auto& ids = golden_.I64(absl::StrFormat("detail.router.%d.ids", layer));
        int64_t& first = seen_rows[layer];
        for (int64_t i = 0; i < rows * k; ++i)
          expert_id[i] = static_cast<int32_t>(ids[first * k + i]);
        first += rows;
        *replaced = true;
      });
  OfflineForward forward(stack.get(), kMaxPositions);
  std::vector<float> logits;
  const std::string prompt = golden_.json["detail_prompt"];
  ASSERT_TRUE(forward.Logits(PromptIds(prompt), 512, &logits).ok());
  const Distance d = Measure(golden_, prompt, logits, stack->checkpoint().config().vocab_size);
  EXPECT_LE(d.rms, 0.15);
  EXPECT_LE(d.max, 1.5);
  EXPECT_GT(d.rms, 1e-3) << "as near as float32: bf16 was not computed";
}

TEST_P(GoldenTest, Bf16WithFreeRouting) {
  auto stack = OpenStack(dir_, "bf16");
  ASSERT_NE(stack, nullptr);
  OfflineForward forward(stack.get(), kMaxPositions);
  for (const std::string& prompt : Prompts()) {
    const std::vector<uint32_t> ids = PromptIds(prompt);
    if (ids.size() < 64) continue;  // too few positions for shares and medians
    std::vector<float> logits;
    ASSERT_TRUE(forward.Logits(ids, 512, &logits).ok());
    const Distance d = Measure(golden_, prompt, logits, stack->checkpoint().config().vocab_size);
    EXPECT_LE(d.median_position_rms, 0.2) << prompt;
    EXPECT_LE(d.rms, 0.6) << prompt;
    EXPECT_GE(d.top1, 0.9) << prompt;
  }
}

INSTANTIATE_TEST_SUITE_P(Presets, GoldenTest, ::testing::ValuesIn(::atl::testing::GoldenPresets()),
                         [](const auto& info) { return info.param; });

// The presets that have an MTP layer.
INSTANTIATE_TEST_SUITE_P(Presets, MtpTest, ::testing::Values("v3", "v3_fp8"),
                         [](const auto& info) { return info.param; });

// A tokenizer may have ids that the model does not.
TEST(OfflineForwardTest, RefusesIdsOutsideTheVocabulary) {
  auto stack = OpenStack(::atl::testing::GoldenCheckpointDir("v3"), "bf16", /*with_mtp=*/true);
  ASSERT_NE(stack, nullptr);
  OfflineForward forward(stack.get(), kMaxPositions);
  const uint32_t vocab = static_cast<uint32_t>(stack->checkpoint().config().vocab_size);
  std::vector<float> logits;
  EXPECT_TRUE(forward.Logits(std::vector<uint32_t>{1, vocab - 1, 2}, 2, &logits).ok());
  for (const uint32_t id : {vocab, 900000u, UINT32_MAX}) {
    const std::vector<uint32_t> ids = {1, 2, id, 3};
    EXPECT_EQ(forward.Logits(ids, 2, &logits).code(), absl::StatusCode::kInvalidArgument) << id;
    EXPECT_EQ(forward.MtpLogits(ids, &logits).code(), absl::StatusCode::kInvalidArgument) << id;
  }
}

// Kimi-K2 is published as model_type kimi_k2, of the same layout.
TEST(KimiK2Test, SameLogitsUnderItsOwnModelType) {
  namespace fs = std::filesystem;
  ::atl::testing::TempDir temp;
  for (const auto& entry : fs::directory_iterator(::atl::testing::GoldenCheckpointDir("kimi"))) {
    fs::copy(entry.path(), fs::path(temp.path()) / entry.path().filename());
  }
  const fs::path config_path = fs::path(temp.path()) / "config.json";
  std::ifstream in(config_path);
  nlohmann::json config = nlohmann::json::parse(in);
  in.close();
  config["model_type"] = "kimi_k2";
  config["architectures"] = {"KimiK2ForCausalLM"};
  fs::permissions(config_path, fs::perms::owner_all);
  std::ofstream(config_path) << config.dump();
  auto stack = OpenStack(temp.path(), "reference");
  ASSERT_NE(stack, nullptr);
  EXPECT_EQ(stack->checkpoint().config().model_type, "kimi_k2");
  auto golden = ::atl::testing::LoadGolden("kimi");
  ASSERT_TRUE(golden.ok());
  OfflineForward forward(stack.get(), kMaxPositions);
  std::vector<float> logits;
  ASSERT_TRUE(forward.Logits(Ids(golden->I64("p5.input_ids")), 512, &logits).ok());
  const Distance d = Measure(*golden, "p5", logits, stack->checkpoint().config().vocab_size);
  EXPECT_LE(d.max, 1e-3);
  EXPECT_LE(d.rms, 1e-4);
}

// The demo model: greedy tokens up to the end mark under both profiles (all margins there are
// above 3.9).
TEST(DemoModelTest, GreedyTokensAsExpected) {
  std::ifstream in(::atl::testing::DemoModelDir() + "/expected.json");
  const nlohmann::json expected = nlohmann::json::parse(in);
  for (const std::string profile : {"reference", "bf16"}) {
    auto stack = OpenStack(::atl::testing::DemoModelDir(), profile);
    ASSERT_NE(stack, nullptr);
    stack->Start();
    for (const auto& one : expected["cases"]) {
      const auto prompt = one["prompt_ids"].get<std::vector<uint32_t>>();
      const auto ids = one["ids"].get<std::vector<uint32_t>>();
      const auto margins = one["margins"].get<std::vector<float>>();
      const size_t end = one["eos_at"].is_null() ? ids.size() : one["eos_at"].get<size_t>() + 1;
      const auto answer = ::atl::testing::RunOne(
          stack->engine(),
          ::atl::testing::MakeStart(stack->checkpoint(), stack->profile(), prompt, ids.size()));
      ASSERT_TRUE(answer.status.ok()) << answer.status;
      const float decided = profile == "reference" ? 2e-3f : 1.0f;
      for (size_t i = 0; i < end && margins[i] > decided; ++i) {
        ASSERT_EQ(answer.ids[i], ids[i]) << profile << " " << one["answer"] << " token " << i;
      }
    }
  }
}

}  // namespace
}  // namespace atl
