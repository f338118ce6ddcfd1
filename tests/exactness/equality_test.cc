// P1, exactness: the same bits of tokens and logprobs whatever the arrangement. Each case is
// compared with the same requests answered alone, one after the other, by one expert node in one
// process.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "tests/support/generate.h"
#include "tests/support/golden.h"
#include "tests/support/thread_cluster.h"

namespace atl {
namespace {

using ::atl::testing::Answer;
using ::atl::testing::Difference;
using ::atl::testing::MakeSampledStart;
using ::atl::testing::MakeStart;
using ::atl::testing::RunAll;
using ::atl::testing::RunOne;
using ::atl::testing::ThreadCluster;
using ::atl::testing::ThreadClusterOptions;
using Starts = std::vector<atollpb::v1::RunStart>;

// What is asked: prompts of 1 to 150 tokens, greedy and sampled, with logprobs.
Starts Workload(const ThreadCluster& cluster) {
  const uint32_t vocab = static_cast<uint32_t>(cluster.checkpoint().config().vocab_size);
  Starts starts;
  int i = 0;
  for (const int length : {1, 7, 33, 64, 65, 150}) {
    std::vector<uint32_t> prompt(length);
    uint32_t x = 12345 + length;
    for (uint32_t& id : prompt) {
      x = x * 1664525 + 1013904223;
      id = (x >> 8) % vocab;
    }
    if (++i % 2 == 0) {
      starts.push_back(
          MakeSampledStart(cluster.checkpoint(), cluster.profile(), prompt, 12, 7 + length));
    } else {
      starts.push_back(MakeStart(cluster.checkpoint(), cluster.profile(), prompt, 12));
    }
  }
  return starts;
}

std::string ModelDir(const std::string& model) {
  return model == "demo" ? ::atl::testing::DemoModelDir()
                         : ::atl::testing::GoldenCheckpointDir(model);
}

ThreadClusterOptions Simplest(const std::string& model, const std::string& profile) {
  ThreadClusterOptions options;
  options.model_dir = ModelDir(model);
  options.profile = profile;
  options.threads = 1;
  options.dispatch = "inline";
  options.num_experts = 1;
  options.engine.prefix_cache = false;
  return options;
}

std::unique_ptr<ThreadCluster> StartOrDie(const ThreadClusterOptions& options) {
  auto cluster = ThreadCluster::Start(options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return cluster.ok() ? *std::move(cluster) : nullptr;
}

struct Reference {
  Starts starts;
  std::vector<Answer> answers;
};

// Answers of the simplest arrangement, each request alone; made once for each model and profile.
const Reference& ReferenceFor(const std::string& model, const std::string& profile) {
  static auto* made = new std::map<std::string, Reference>();
  Reference& reference = (*made)[model + "/" + profile];
  if (reference.answers.empty()) {
    auto cluster = StartOrDie(Simplest(model, profile));
    reference.starts = Workload(*cluster);
    for (const auto& start : reference.starts) {
      reference.answers.push_back(RunOne(cluster->attention(0), start));
      EXPECT_TRUE(reference.answers.back().status.ok()) << reference.answers.back().status;
      EXPECT_EQ(reference.answers.back().ids.size(), 12);
    }
  }
  return reference;
}

// Every request at once (those of one attention node share its steps), spread over the attention
// nodes.
void ExpectSameAnswers(ThreadCluster* cluster, int num_attention, const std::string& model,
                       const std::string& profile) {
  const Reference& reference = ReferenceFor(model, profile);
  std::vector<std::unique_ptr<::atl::testing::PendingAnswer>> pending;
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    pending.push_back(
        ::atl::testing::StartRun(cluster->attention(i % num_attention), reference.starts[i]));
  }
  for (size_t i = 0; i < pending.size(); ++i) {
    EXPECT_EQ(Difference(reference.answers[i], pending[i]->Get()), "") << "request " << i;
  }
}

struct Arrangement {
  std::string name;
  std::function<void(ThreadClusterOptions*)> apply;
};

// Uneven shards: node i holds about twice as much as node i + 1.
std::vector<int> UnevenHolder(int32_t layer, int32_t expert, int nodes) {
  uint32_t x = static_cast<uint32_t>(layer * 7919 + expert * 104729) * 2654435761u >> 16;
  int node = 0;
  while (node + 1 < nodes && (x & 1)) {
    x >>= 1;
    ++node;
  }
  return {node};
}

std::vector<Arrangement> Arrangements() {
  std::vector<Arrangement> all;
  for (const int experts : {1, 2, 4, 8}) {
    all.push_back(
        {"Experts" + std::to_string(experts), [=](auto* o) { o->num_experts = experts; }});
    if (experts == 1) continue;
    all.push_back({"UnevenExperts" + std::to_string(experts), [=](auto* o) {
                     o->num_experts = experts;
                     o->holders = [=](int32_t layer, int32_t e) {
                       return UnevenHolder(layer, e, experts);
                     };
                   }});
  }
  all.push_back({"EveryExpertOnBothNodes", [](auto* o) {
                   o->num_experts = 2;
                   o->holders = [](int32_t, int32_t) { return std::vector<int>{0, 1}; };
                 }});
  for (const auto kind : {transport::LinkKind::kInproc, transport::LinkKind::kShm,
                          transport::LinkKind::kUnix, transport::LinkKind::kTcp}) {
    for (const std::string dispatch : {"service", "inline"}) {
      std::string name = transport::LinkKindName(kind);
      name[0] = static_cast<char>(std::toupper(name[0]));
      all.push_back({name + (dispatch == "service" ? "Service" : "Inline"), [=](auto* o) {
                       o->links = kind;
                       o->dispatch = dispatch;
                       o->num_experts = 3;
                     }});
    }
  }
  for (const int attention : {2, 3}) {
    all.push_back({"Attention" + std::to_string(attention), [=](auto* o) {
                     o->num_attention = attention;
                     o->dispatch = "service";
                     o->num_experts = 2;
                   }});
  }
  for (const int chunk : {1, 7, 64, 512}) {
    all.push_back(
        {"Chunk" + std::to_string(chunk), [=](auto* o) { o->engine.prefill_chunk = chunk; }});
  }
  all.push_back({"StepOf5Tokens", [](auto* o) { o->engine.max_step_tokens = 5; }});
  all.push_back({"OneMicroBatch", [](auto* o) { o->engine.micro_batches = 1; }});
  all.push_back({"OneSequenceAStep", [](auto* o) { o->engine.max_running = 1; }});
  for (const int threads : {1, 2, 4}) {
    all.push_back({"Threads" + std::to_string(threads), [=](auto* o) { o->threads = threads; }});
  }
  for (const kernels::Isa isa : {kernels::Isa::kPortable, kernels::Isa::kAvx2,
                                 kernels::Isa::kAvx512, kernels::Isa::kAvx512Vnni}) {
    std::string name = kernels::IsaName(isa);
    name[0] = static_cast<char>(std::toupper(name[0]));
    all.push_back({"Isa" + name, [=](auto* o) { o->isa = kernels::IsaName(isa); }});
  }
  return all;
}

class EqualityTest
    : public ::testing::TestWithParam<std::tuple<std::string, std::string, Arrangement>> {};

TEST_P(EqualityTest, SameBits) {
  const auto& [model, profile, arrangement] = GetParam();
  ThreadClusterOptions options = Simplest(model, profile);
  options.threads = 2;
  arrangement.apply(&options);
  const auto isa = kernels::ParseIsa(options.isa);
  ASSERT_TRUE(isa.ok());
  if (!kernels::IsaSupported(*isa)) GTEST_SKIP() << "this CPU has no " << options.isa;
  auto cluster = StartOrDie(options);
  ASSERT_NE(cluster, nullptr);
  ExpectSameAnswers(cluster.get(), options.num_attention, model, profile);
}

std::string CaseName(const ::testing::TestParamInfo<EqualityTest::ParamType>& info) {
  return std::get<0>(info.param) + "_" + std::get<1>(info.param) + "_" +
         std::get<2>(info.param).name;
}

// The demo model has FP8 weights, groups and biases; the presets reach what it does not: softmax
// and group_limited_greedy, no q_lora, tied embeddings, YaRN.
INSTANTIATE_TEST_SUITE_P(Demo, EqualityTest,
                         ::testing::Combine(::testing::Values("demo"),
                                            ::testing::Values("bf16", "reference"),
                                            ::testing::ValuesIn(Arrangements())),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Presets, EqualityTest,
                         ::testing::Combine(::testing::ValuesIn(::atl::testing::GoldenPresets()),
                                            ::testing::Values("bf16"),
                                            ::testing::ValuesIn(Arrangements())),
                         CaseName);

// Quantised weights and FP8 blocks have kernels of their own; what lies between nodes is as with
// bf16.
std::vector<Arrangement> QuantisedArrangements() {
  std::vector<Arrangement> chosen;
  for (const Arrangement& arrangement : Arrangements()) {
    for (const char* start : {"Experts", "InprocService", "Attention2", "Chunk", "StepOf5", "OneM",
                              "OneS", "Threads", "Isa"}) {
      if (arrangement.name.starts_with(start)) chosen.push_back(arrangement);
    }
  }
  return chosen;
}

INSTANTIATE_TEST_SUITE_P(Quantised, EqualityTest,
                         ::testing::Combine(::testing::Values("demo", "v2_lite"),
                                            ::testing::Values("q8", "q4", "fp8w"),
                                            ::testing::ValuesIn(QuantisedArrangements())),
                         CaseName);

// Cases that need more than another arrangement of the same requests.
class ExactnessTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    ThreadClusterOptions options = Simplest(GetParam(), "bf16");
    options.threads = 2;
    options.engine.prefix_cache = true;
    options.num_experts = 2;
    options.dispatch = "service";
    cluster_ = StartOrDie(options);
    ASSERT_NE(cluster_, nullptr);
  }
  attention::Engine* engine() { return cluster_->attention(0); }
  atollpb::v1::RunStart Renamed(atollpb::v1::RunStart start, const std::string& suffix) {
    start.set_request_id(start.request_id() + suffix);
    return start;
  }

  std::unique_ptr<ThreadCluster> cluster_;
};

TEST_P(ExactnessTest, BatchesOf2And7And32) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
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

TEST_P(ExactnessTest, PrefixCacheColdAndWarm) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    const Answer cold = RunOne(engine(), Renamed(reference.starts[i], "-cold"));
    const Answer warm = RunOne(engine(), Renamed(reference.starts[i], "-warm"));
    EXPECT_EQ(Difference(reference.answers[i], cold), "");
    EXPECT_EQ(Difference(reference.answers[i], warm), "");
    const uint32_t blocks = (reference.starts[i].prompt_ids_size() - 1) / 64;
    EXPECT_EQ(warm.cached_prompt_tokens, blocks * 64);
  }
}

TEST_P(ExactnessTest, ReplayAtEveryCut) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
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

TEST_P(ExactnessTest, ConversationTurnByTurnAndAtOnce) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
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
  auto fresh = StartOrDie(Simplest(GetParam(), "bf16"));
  EXPECT_EQ(Difference(RunOne(fresh->attention(0), start), last), "");
  ASSERT_FALSE(reference.answers.empty());
}

TEST_P(ExactnessTest, LogprobsWhileGeneratingArePromptLogprobs) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
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

TEST_P(ExactnessTest, FewBlocksPreemptAndReplay) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
  ThreadClusterOptions options = Simplest(GetParam(), "bf16");
  options.engine.context_length = 192;
  options.engine.cache_blocks = 4;  // the workload needs 11 at once
  options.engine.prefix_cache = true;
  auto cluster = StartOrDie(options);
  const std::vector<Answer> answers = RunAll(cluster->attention(0), reference.starts);
  for (size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(Difference(reference.answers[i], answers[i]), "") << i;
  EXPECT_EQ(cluster->attention(0)->num_sequences(), 0);
}

TEST_P(ExactnessTest, ExpertNodeCutInTheMiddle) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
  ThreadClusterOptions options = Simplest(GetParam(), "bf16");
  options.num_experts = 3;
  options.links = transport::LinkKind::kUnix;
  options.holders = [](int32_t, int32_t e) { return std::vector<int>{e % 3, (e + 1) % 3}; };
  auto cluster = StartOrDie(options);
  std::vector<std::unique_ptr<::atl::testing::PendingAnswer>> pending;
  for (const auto& start : reference.starts)
    pending.push_back(::atl::testing::StartRun(cluster->attention(0), start));
  EXPECT_TRUE(pending[0]->WaitForTokens(2, absl::Seconds(30)));
  cluster->CutExpert(1);
  for (size_t i = 0; i < pending.size(); ++i) {
    EXPECT_EQ(Difference(reference.answers[i], pending[i]->Get()), "") << i;
  }
}

// Each expert's own count of rows, the shared one's included, is what the gates chose, exactly.
TEST_P(ExactnessTest, ExpertsComputeExactlyTheRowsThatTheGateChose) {
  const Reference& reference = ReferenceFor(GetParam(), "bf16");
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

INSTANTIATE_TEST_SUITE_P(Models, ExactnessTest,
                         ::testing::Values("demo", "v2_lite", "v3_fp8", "moonlight", "tied"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace atl
