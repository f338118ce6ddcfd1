// P1, exactness: the same bits whatever came before: batches, cached prefixes, replays,
// conversations, preemption, expert nodes that die.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/reference_answers.h"

namespace atl::testing {
namespace {

using ModelAndProfile = std::pair<std::string, std::string>;

class HistoryTest : public ::testing::TestWithParam<ModelAndProfile> {
 protected:
  void SetUp() override {
    ThreadClusterOptions options = Simplest(model(), profile());
    options.threads = 2;
    options.engine.prefix_cache = true;
    options.num_experts = 2;
    options.dispatch = "service";
    cluster_ = StartOrDie(options);
    ASSERT_NE(cluster_, nullptr);
  }
  static const std::string& model() { return GetParam().first; }
  static const std::string& profile() { return GetParam().second; }
  attention::Engine* engine() { return cluster_->attention(0); }
  atollpb::v1::RunStart Renamed(atollpb::v1::RunStart start, const std::string& suffix) {
    start.set_request_id(start.request_id() + suffix);
    return start;
  }

  std::unique_ptr<ThreadCluster> cluster_;
};

TEST_P(HistoryTest, BatchesOf2And7And32) {
  const Reference& reference = ReferenceFor(model(), profile());
  for (const size_t batch : {2, 7, 32}) {
    Starts starts;
    for (size_t i = 0; i < batch; ++i) {
      starts.push_back(
          Renamed(reference.starts[i % reference.starts.size()], "-" + std::to_string(i)));
    }
    const std::vector<Answer> answers = RunAll(engine(), starts);
    for (size_t i = 0; i < batch; ++i) {
      EXPECT_EQ(Difference(reference.answers[i % reference.answers.size()], answers[i]), "")
          << batch << " " << i;
    }
  }
}

TEST_P(HistoryTest, PrefixCacheColdAndWarm) {
  const Reference& reference = ReferenceFor(model(), profile());
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    const Answer cold = RunOne(engine(), Renamed(reference.starts[i], "-cold"));
    const Answer warm = RunOne(engine(), Renamed(reference.starts[i], "-warm"));
    EXPECT_EQ(Difference(reference.answers[i], cold), "");
    EXPECT_EQ(Difference(reference.answers[i], warm), "");
    const uint32_t blocks = (reference.starts[i].prompt_ids_size() - 1) / 64;
    EXPECT_EQ(warm.cached_prompt_tokens, blocks * 64);
  }
}

TEST_P(HistoryTest, ReplayAtEveryCut) {
  const Reference& reference = ReferenceFor(model(), profile());
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    const Answer& whole = reference.answers[i];
    const size_t per_token = whole.logprobs.size() / whole.ids.size();
    for (size_t cut = 1; cut < whole.ids.size(); ++cut) {
      auto start = Renamed(reference.starts[i], "-cut" + std::to_string(cut));
      start.mutable_generated_ids()->Add(whole.ids.begin(), whole.ids.begin() + cut);
      Answer rest;
      rest.ids.assign(whole.ids.begin() + cut, whole.ids.end());
      rest.logprobs.assign(whole.logprobs.begin() + cut * per_token, whole.logprobs.end());
      EXPECT_EQ(Difference(rest, RunOne(engine(), start)), "") << "request " << i << " cut " << cut;
    }
  }
}

// What holds where every token attends in one form, a prompt's or not.
class OneFormTest : public HistoryTest {};

TEST_P(OneFormTest, ConversationTurnByTurnAndAtOnce) {
  const Reference& reference = ReferenceFor(model(), profile());
  // Turn by turn: each turn's prompt is all that was said, with the answers as generated; the cache
  // is warm.
  std::vector<uint32_t> said;
  Answer last;
  atollpb::v1::RunStart start;
  for (int turn = 0; turn < 4; ++turn) {
    for (int i = 0; i < 40; ++i) said.push_back(3 + (turn * 40 + i * 7) % 400);
    start = MakeStart(cluster_->checkpoint(), cluster_->profile(), said, 30);
    last = RunOne(engine(), start);
    ASSERT_TRUE(last.status.ok()) << last.status;
    if (turn < 3) said.insert(said.end(), last.ids.begin(), last.ids.end());
  }
  EXPECT_GT(last.cached_prompt_tokens, 0) << "the answers' own blocks were not found again";
  auto fresh = StartOrDie(Simplest(model(), profile()));
  EXPECT_EQ(Difference(RunOne(fresh->attention(0), start), last), "");
  ASSERT_FALSE(reference.answers.empty());
}

TEST_P(OneFormTest, LogprobsWhileGeneratingArePromptLogprobs) {
  const Reference& reference = ReferenceFor(model(), profile());
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    const Answer& whole = reference.answers[i];
    std::vector<uint32_t> ids(reference.starts[i].prompt_ids().begin(),
                              reference.starts[i].prompt_ids().end());
    const size_t prompt = ids.size();
    ids.insert(ids.end(), whole.ids.begin(), whole.ids.end());
    auto start = MakeStart(cluster_->checkpoint(), cluster_->profile(), ids, 0);
    start.set_prompt_logprobs(5);
    const Answer scored = RunOne(engine(), start);
    ASSERT_TRUE(scored.status.ok()) << scored.status;
    const size_t per_token = whole.logprobs.size() / whole.ids.size();
    ASSERT_EQ(scored.prompt_logprobs.size(), (ids.size() - 1) * per_token);
    const std::vector<float> tail(scored.prompt_logprobs.begin() + (prompt - 1) * per_token,
                                  scored.prompt_logprobs.end());
    Answer expected, found;
    expected.logprobs = whole.logprobs;
    found.logprobs = tail;
    EXPECT_EQ(Difference(expected, found), "") << "request " << i;
  }
}

TEST_P(HistoryTest, FewBlocksPreemptAndReplay) {
  const Reference& reference = ReferenceFor(model(), profile());
  ThreadClusterOptions options = Simplest(model(), profile());
  options.engine.context_length = 192;
  options.engine.cache_blocks = 4;  // the workload needs 11 at once
  options.engine.prefix_cache = true;
  auto cluster = StartOrDie(options);
  const std::vector<Answer> answers = RunAll(cluster->attention(0), reference.starts);
  for (size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(Difference(reference.answers[i], answers[i]), "") << i;
  EXPECT_EQ(cluster->attention(0)->num_sequences(), 0);
}

TEST_P(HistoryTest, ExpertNodeCutInTheMiddle) {
  const Reference& reference = ReferenceFor(model(), profile());
  ThreadClusterOptions options = Simplest(model(), profile());
  options.num_experts = 3;
  options.links = transport::LinkKind::kUnix;
  options.holders = [](int32_t, int32_t e) { return std::vector<int>{e % 3, (e + 1) % 3}; };
  auto cluster = StartOrDie(options);
  std::vector<std::unique_ptr<PendingAnswer>> pending;
  for (const auto& start : reference.starts)
    pending.push_back(StartRun(cluster->attention(0), start));
  EXPECT_TRUE(pending[0]->WaitForTokens(2, absl::Seconds(30)));
  cluster->CutExpert(1);
  for (size_t i = 0; i < pending.size(); ++i) {
    EXPECT_EQ(Difference(reference.answers[i], pending[i]->Get()), "") << i;
  }
}

// Each expert's own count of rows, the shared one's included, is what the gates chose, exactly.
TEST_P(HistoryTest, ExpertsComputeExactlyTheRowsThatTheGateChose) {
  const Reference& reference = ReferenceFor(model(), profile());
  RunAll(engine(), reference.starts);
  const auto& config = cluster_->checkpoint().config();
  uint64_t dispatched = engine()->stats().dispatched_rows;
  uint64_t chosen = 0;
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    for (int32_t e = 0; e < config.num_expert_ids(); ++e) {
      uint64_t computed = 0;
      for (int node = 0; node < 2; ++node) {
        if (auto held = cluster_->store(node).Find({.layer = layer, .expert = e}))
          computed += held->rows;
      }
      ASSERT_EQ(computed, cluster_->RoutedRows(layer, e)) << "layer " << layer << " expert " << e;
      chosen += computed;
    }
  }
  const uint64_t pairs_per_row = config.num_experts_per_tok + (config.n_shared_experts > 0 ? 1 : 0);
  EXPECT_EQ(chosen, dispatched * pairs_per_row);
}

// Prompts expanded, what follows absorbed: cached latents are found by tokens of their own form.
class TwoFormsTest : public HistoryTest {};

TEST_P(TwoFormsTest, AReplayFindsItsCacheAndAResentConversationItsPromptsAlone) {
  std::vector<uint32_t> prompt;
  for (uint32_t i = 0; i < 100; ++i) prompt.push_back(3 + i * 7 % 400);
  const auto first = MakeStart(cluster_->checkpoint(), cluster_->profile(), prompt, 60);
  const Answer whole = RunOne(engine(), first);
  ASSERT_EQ(whole.ids.size(), 60) << whole.status;
  // Blocks of 64: of the prompt alone; of 36 of the prompt and 28 generated.
  auto replay = Renamed(first, "-replay");
  replay.mutable_generated_ids()->Add(whole.ids.begin(), whole.ids.begin() + 40);
  Answer rest, replayed = RunOne(engine(), replay);
  rest.ids.assign(whole.ids.begin() + 40, whole.ids.end());
  rest.logprobs.assign(whole.logprobs.begin() + 40 * whole.logprobs.size() / 60,
                       whole.logprobs.end());
  EXPECT_EQ(Difference(rest, replayed), "");
  EXPECT_EQ(replayed.cached_prompt_tokens, 100);

  prompt.insert(prompt.end(), whole.ids.begin(), whole.ids.begin() + 40);
  const auto resent = MakeStart(cluster_->checkpoint(), cluster_->profile(), prompt, 20);
  const Answer found = RunOne(engine(), resent);
  EXPECT_EQ(found.cached_prompt_tokens, 64);
  auto fresh = StartOrDie(Simplest(model(), profile()));
  EXPECT_EQ(Difference(RunOne(fresh->attention(0), Renamed(resent, "-fresh")), found), "");
}

TEST_P(TwoFormsTest, TheFormIsInTheBits) {
  const std::string absorbed = profile().substr(0, profile().find("+expanded"));
  const Reference &one = ReferenceFor(model(), absorbed), &two = ReferenceFor(model(), profile());
  int differ = 0;
  for (size_t i = 0; i < one.answers.size(); ++i)
    differ += !Difference(one.answers[i], two.answers[i]).empty();
  EXPECT_GT(differ, 0) << "prompts were not expanded";
}

std::vector<ModelAndProfile> OneForm() {
  std::vector<ModelAndProfile> all;
  for (const char* model : {"demo", "v2_lite", "v3_fp8", "moonlight", "tied"})
    all.emplace_back(model, "bf16");
  for (const char* model : {"demo", "v2_lite"}) all.emplace_back(model, "q8+fp8cache");
  return all;
}
std::vector<ModelAndProfile> TwoForms() {
  return {{"demo", "q8+expanded"}, {"v2_lite", "bf16+fp8cache+expanded"}};
}
std::vector<ModelAndProfile> AllForms() {
  std::vector<ModelAndProfile> all = OneForm();
  for (const ModelAndProfile& one : TwoForms()) all.push_back(one);
  return all;
}
std::string ModelName(const ::testing::TestParamInfo<ModelAndProfile>& info) {
  return Word(info.param.first + "_" + info.param.second);
}

INSTANTIATE_TEST_SUITE_P(Models, HistoryTest, ::testing::ValuesIn(AllForms()), ModelName);
INSTANTIATE_TEST_SUITE_P(Models, OneFormTest, ::testing::ValuesIn(OneForm()), ModelName);
INSTANTIATE_TEST_SUITE_P(Models, TwoFormsTest, ::testing::ValuesIn(TwoForms()), ModelName);

}  // namespace
}  // namespace atl::testing
