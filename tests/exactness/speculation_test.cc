// Speculation changes no bit: tokens and logprobs with guesses 1, 2 and 4 deep are those without,
// whatever is guessed, and however requests are arranged.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "local/local_stack.h"
#include "tests/support/generate.h"
#include "tests/support/golden.h"
#include "tests/support/thread_cluster.h"

namespace atl {
namespace {

using ::atl::local::LocalStack;
using ::atl::local::LocalStackOptions;
using ::atl::testing::Answer;
using ::atl::testing::Difference;
using ::atl::testing::MakeSampledStart;
using ::atl::testing::MakeStart;
using ::atl::testing::RunAll;
using ::atl::testing::RunOne;
using ::atl::testing::ThreadCluster;
using ::atl::testing::ThreadClusterOptions;
using Starts = std::vector<atollpb::v1::RunStart>;

constexpr uint32_t kTokens = 24;

std::string ModelDir(const std::string& model) {
  return model == "demo" ? ::atl::testing::DemoModelDir()
                         : ::atl::testing::GoldenCheckpointDir(model);
}

std::unique_ptr<ThreadCluster> StartOrDie(const ThreadClusterOptions& options) {
  auto cluster = ThreadCluster::Start(options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return cluster.ok() ? *std::move(cluster) : nullptr;
}

ThreadClusterOptions Options(const std::string& model, int speculate) {
  ThreadClusterOptions options;
  options.model_dir = ModelDir(model);
  options.threads = 1;
  options.dispatch = "inline";
  options.num_experts = 1;
  options.engine.prefix_cache = false;
  options.engine.speculate = speculate;
  options.engine.speculate_always = true;
  return options;
}

// Greedy; drawn with penalties; drawn with a bias, and prompt logprobs; ended by an id.
Starts Workload(const ThreadCluster& cluster) {
  const uint32_t vocab = static_cast<uint32_t>(cluster.checkpoint().config().vocab_size);
  Starts starts;
  for (const int length : {1, 7, 33, 63, 64, 65, 100, 150}) {
    std::vector<uint32_t> prompt(length);
    uint32_t x = 977 + length;
    for (uint32_t& id : prompt) {
      x = x * 1664525 + 1013904223;
      id = (x >> 8) % vocab;
    }
    const bool drawn = starts.size() % 4 == 1 || starts.size() % 4 == 2;
    starts.push_back(drawn ? MakeSampledStart(cluster.checkpoint(), cluster.profile(), prompt,
                                              kTokens, 7 + length)
                           : MakeStart(cluster.checkpoint(), cluster.profile(), prompt, kTokens));
    if (starts.size() % 4 == 3) {
      auto* sampling = starts.back().mutable_sampling();
      sampling->set_repetition_penalty(1);
      sampling->set_temperature(0.5f);
      (*sampling->mutable_logit_bias())[prompt[0]] = 3.5f;
      starts.back().set_prompt_logprobs(2);
    }
  }
  return starts;
}

struct Reference {
  Starts starts;
  std::vector<Answer> answers;
};

// Answers without speculation, each request alone.
const Reference& ReferenceFor(const std::string& model) {
  static auto* made = new std::map<std::string, Reference>();
  Reference& reference = (*made)[model];
  if (reference.answers.empty()) {
    auto cluster = StartOrDie(Options(model, 0));
    reference.starts = Workload(*cluster);
    for (size_t i = 0; i < reference.starts.size(); ++i) {
      auto& start = reference.starts[i];
      Answer answer = RunOne(cluster->attention(0), start);
      EXPECT_EQ(answer.ids.size(), kTokens);
      if (i % 4 == 3) {  // from now on it ends in the middle
        start.add_stop_token_ids(answer.ids[kTokens / 2]);
        answer = RunOne(cluster->attention(0), start);
        EXPECT_EQ(answer.finish_reason, atollpb::v1::FINISH_REASON_STOP);
      }
      reference.answers.push_back(std::move(answer));
    }
    EXPECT_EQ(cluster->attention(0)->stats().drafted_tokens, 0);
  }
  return reference;
}

atollpb::v1::RunStart Renamed(atollpb::v1::RunStart start, const std::string& suffix) {
  start.set_request_id(start.request_id() + suffix);
  return start;
}

class SpeculationTest : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  const std::string& model() const { return std::get<0>(GetParam()); }
  int depth() const { return std::get<1>(GetParam()); }
  ThreadClusterOptions With() const { return Options(model(), depth()); }

  void ExpectSame(const ThreadClusterOptions& options) {
    auto cluster = StartOrDie(options);
    ASSERT_NE(cluster, nullptr);
    ExpectSame(cluster.get());
  }
  // All requests at once.
  void ExpectSame(ThreadCluster* cluster) {
    const Reference& reference = ReferenceFor(model());
    const std::vector<Answer> answers = RunAll(cluster->attention(0), reference.starts);
    for (size_t i = 0; i < answers.size(); ++i) {
      EXPECT_EQ(Difference(reference.answers[i], answers[i]), "") << "request " << i;
      EXPECT_EQ(reference.answers[i].finish_reason, answers[i].finish_reason);
    }
    EXPECT_GT(cluster->attention(0)->stats().drafted_tokens, 0);
  }
};

TEST_P(SpeculationTest, EachAlone) {
  auto cluster = StartOrDie(With());
  const Reference& reference = ReferenceFor(model());
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    EXPECT_EQ(Difference(reference.answers[i], RunOne(cluster->attention(0), reference.starts[i])),
              "")
        << "request " << i;
  }
  EXPECT_GT(cluster->attention(0)->stats().drafted_tokens, 0);
}

TEST_P(SpeculationTest, AsDeepAsPays) {
  ThreadClusterOptions options = With();
  options.engine.speculate_always = false;
  ExpectSame(options);
}

TEST_P(SpeculationTest, ExpertNodes) {
  for (const int nodes : {1, 2, 4}) {
    SCOPED_TRACE(nodes);
    ThreadClusterOptions options = With();
    options.num_experts = nodes;
    options.dispatch = "service";
    options.links = nodes == 2 ? transport::LinkKind::kUnix : transport::LinkKind::kInproc;
    options.threads = 2;
    ExpectSame(options);
  }
}

TEST_P(SpeculationTest, ChunksAndSmallSteps) {
  for (const int chunk : {1, 7, 64}) {
    SCOPED_TRACE(chunk);
    ThreadClusterOptions options = With();
    options.engine.prefill_chunk = chunk;
    ExpectSame(options);
  }
  ThreadClusterOptions options = With();
  options.engine.max_step_tokens = 5;
  options.engine.max_running = 2;
  ExpectSame(options);
}

TEST_P(SpeculationTest, BatchesOf1And7And32) {
  auto cluster = StartOrDie(With());
  const Reference& reference = ReferenceFor(model());
  for (const size_t batch : {1, 7, 32}) {
    Starts starts;
    for (size_t i = 0; i < batch; ++i) {
      starts.push_back(
          Renamed(reference.starts[i % reference.starts.size()], absl::StrCat("-", i)));
    }
    const std::vector<Answer> answers = RunAll(cluster->attention(0), starts);
    for (size_t i = 0; i < batch; ++i) {
      EXPECT_EQ(Difference(reference.answers[i % reference.answers.size()], answers[i]), "")
          << batch << " " << i;
    }
  }
}

TEST_P(SpeculationTest, FewBlocksPreemptAndReplay) {
  ThreadClusterOptions options = With();
  options.engine.context_length = 192;
  options.engine.cache_blocks = 4;
  options.engine.prefix_cache = true;
  auto cluster = StartOrDie(options);
  ASSERT_NE(cluster, nullptr);
  ExpectSame(cluster.get());
  EXPECT_GT(cluster->attention(0)->stats().preemptions, 0);
}

TEST_P(SpeculationTest, PrefixCacheColdWarmAndOfAnotherContinuation) {
  ThreadClusterOptions options = With();
  options.engine.prefix_cache = true;
  auto cluster = StartOrDie(options);
  const Reference& reference = ReferenceFor(model());
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    // Another continuation of the same blocks first: it leaves its token in their last latent.
    auto other = Renamed(reference.starts[i], "-other");
    const int size = other.prompt_ids_size();
    if (size > 64) other.mutable_prompt_ids()->Truncate(64 * ((size - 1) / 64));
    ASSERT_TRUE(RunOne(cluster->attention(0), other).status.ok());
    for (const std::string name : {"-cold", "-warm"}) {
      EXPECT_EQ(Difference(reference.answers[i],
                           RunOne(cluster->attention(0), Renamed(reference.starts[i], name))),
                "")
          << "request " << i << name;
    }
  }
}

TEST_P(SpeculationTest, ResumedAtEveryCut) {
  auto cluster = StartOrDie(With());
  const Reference& reference = ReferenceFor(model());
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    const Answer& whole = reference.answers[i];
    const size_t per_token = whole.logprobs.size() / whole.ids.size();
    for (size_t cut = 1; cut < whole.ids.size(); cut += 5) {
      auto start = Renamed(reference.starts[i], absl::StrCat("-cut", cut));
      start.mutable_generated_ids()->Add(whole.ids.begin(), whole.ids.begin() + cut);
      start.set_prompt_logprobs(-1);
      Answer rest;
      rest.ids.assign(whole.ids.begin() + cut, whole.ids.end());
      rest.logprobs.assign(whole.logprobs.begin() + cut * per_token, whole.logprobs.end());
      EXPECT_EQ(Difference(rest, RunOne(cluster->attention(0), start)), "")
          << "request " << i << " cut " << cut;
    }
  }
}

// Ends of every length, by max_tokens and by a full context.
TEST_P(SpeculationTest, EndsWhereItWouldHave) {
  const Reference& reference = ReferenceFor(model());
  const Answer& whole = reference.answers[0];
  const size_t per_token = whole.logprobs.size() / whole.ids.size();
  const auto first = [&](size_t count) {
    Answer answer;
    answer.ids.assign(whole.ids.begin(), whole.ids.begin() + count);
    answer.logprobs.assign(whole.logprobs.begin(), whole.logprobs.begin() + count * per_token);
    return answer;
  };
  auto cluster = StartOrDie(With());
  for (uint32_t count = 1; count < 10; ++count) {
    auto start = Renamed(reference.starts[0], absl::StrCat("-max", count));
    start.set_max_tokens(count);
    const Answer answer = RunOne(cluster->attention(0), start);
    EXPECT_EQ(Difference(first(count), answer), "");
    EXPECT_EQ(answer.finish_reason, atollpb::v1::FINISH_REASON_LENGTH);
  }
  ThreadClusterOptions options = With();
  options.engine.context_length = 9;  // the prompt has one token
  cluster = StartOrDie(options);
  EXPECT_EQ(Difference(first(8), RunOne(cluster->attention(0), reference.starts[0])), "");
}

// Rows that the gates chose, the MTP layer's included, are rows that experts computed.
TEST_P(SpeculationTest, ExpertsComputeExactlyTheRowsThatTheGateChose) {
  ThreadClusterOptions options = With();
  options.num_experts = 2;
  options.dispatch = "service";
  auto cluster = StartOrDie(options);
  RunAll(cluster->attention(0), ReferenceFor(model()).starts);
  const auto& config = cluster->checkpoint().config();
  uint64_t chosen = 0, mtp = 0;
  for (int32_t layer = 0; layer <= config.num_hidden_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    for (int32_t e = 0; e < config.num_expert_ids(); ++e) {
      uint64_t computed = 0;
      for (int node = 0; node < 2; ++node) {
        if (auto held = cluster->store(node).Find({.layer = layer, .expert = e}))
          computed += held->rows;
      }
      ASSERT_EQ(computed, cluster->RoutedRows(layer, e)) << "layer " << layer << " expert " << e;
      chosen += computed;
      if (layer == config.num_hidden_layers) mtp += computed;
    }
  }
  const uint64_t pairs_per_row = config.num_experts_per_tok + (config.n_shared_experts > 0 ? 1 : 0);
  EXPECT_EQ(chosen, cluster->attention(0)->stats().dispatched_rows * pairs_per_row);
  EXPECT_GT(mtp, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, SpeculationTest,
                         ::testing::Combine(::testing::Values("demo", "v3"),
                                            ::testing::Values(1, 2, 4)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param), "_",
                                               std::get<1>(info.param));
                         });

// Guesses made by the test instead of the MTP layer.
class GuessTest : public ::testing::Test {
 protected:
  void Open(int speculate, bool always = true) {
    LocalStackOptions options;
    options.model_dir = ::atl::testing::DemoModelDir();
    options.profile = Options("demo", 0).profile;
    options.threads = 1;
    options.num_expert_nodes = 2;
    options.engine.speculate = speculate;
    options.engine.speculate_always = always;
    options.engine.prefix_cache = false;
    auto stack = LocalStack::Open(options);
    ASSERT_TRUE(stack.ok()) << stack.status();
    stack_ = *std::move(stack);
  }
  // Turns every guess into the token that comes, or another one where `wrong` says so of its place
  // in the answer.
  void Guess(const std::function<bool(size_t)>& wrong) {
    stack_->engine()->SetDraftHookForTest(
        [this, wrong](const attention::Sequence& s, std::vector<uint32_t>* drafts) {
          const std::vector<uint32_t>& answer = known_.at(s.start.request_id());
          for (size_t i = 0; i < drafts->size(); ++i) {
            const size_t place = s.num_generated() + i;
            (*drafts)[i] = answer[place] ^ (wrong(place) ? 1 : 0);
          }
        });
    stack_->Start();
  }
  // The reference's answer, which hooks then know.
  Answer Known(atollpb::v1::RunStart start) {
    auto cluster = StartOrDie(Options("demo", 0));
    Answer answer = RunOne(cluster->attention(0), start);
    known_[start.request_id()] = answer.ids;
    return answer;
  }
  const attention::EngineStats& stats() { return stack_->engine()->stats(); }

  std::unique_ptr<LocalStack> stack_;
  std::map<std::string, std::vector<uint32_t>> known_;
};

TEST_F(GuessTest, AlwaysRightSavesAStepAGuess) {
  Open(2);
  const auto start = MakeSampledStart(stack_->checkpoint(), stack_->profile(), {5, 6, 7}, 25, 3);
  const Answer expected = Known(start);
  Guess([](size_t) { return false; });
  EXPECT_EQ(Difference(expected, RunOne(stack_->engine(), start)), "");
  EXPECT_EQ(stats().drafted_tokens, 16);
  EXPECT_EQ(stats().accepted_tokens, 16);
  EXPECT_EQ(stats().steps, 1 + 8) << "the prompt gives the first token, each step three";
  EXPECT_EQ(stats().decode_tokens, 24);
}

TEST_F(GuessTest, AlwaysWrongIsGivenUp) {
  Open(1, /*always=*/false);
  const auto start = MakeSampledStart(stack_->checkpoint(), stack_->profile(), {5, 6, 7}, 400, 3);
  const Answer expected = Known(start);
  ASSERT_EQ(expected.ids.size(), 400);
  Guess([](size_t) { return true; });
  EXPECT_EQ(Difference(expected, RunOne(stack_->engine(), start)), "");
  EXPECT_EQ(stats().accepted_tokens, 0);
  EXPECT_EQ(stats().steps, 400);
  EXPECT_EQ(stats().decode_tokens, 399);
  EXPECT_GT(stats().drafted_tokens, 0);
  EXPECT_LT(stats().drafted_tokens, 200) << "guesses that are always wrong go on";
}

// Every third guess wrong, at places that differ from request to request, many sequences a step.
TEST_F(GuessTest, RightAndWrongInTurn) {
  Open(4);
  Starts starts;
  std::vector<Answer> expected;
  for (uint32_t i = 0; i < 3; ++i) {
    starts.push_back(MakeSampledStart(stack_->checkpoint(), stack_->profile(),
                                      std::vector<uint32_t>(40 + i * 23, 9 + i), 60, i));
    expected.push_back(Known(starts.back()));
  }
  Guess([](size_t place) { return place % 3 == 0; });
  const std::vector<Answer> answers = RunAll(stack_->engine(), starts);
  for (size_t i = 0; i < starts.size(); ++i)
    EXPECT_EQ(Difference(expected[i], answers[i]), "") << i;
  EXPECT_GT(stats().accepted_tokens, 60);
  EXPECT_GT(stats().drafted_tokens, stats().accepted_tokens);
}

// A request that ends with the step that computed its prompt leaves the MTP layer's latents in the
// blocks that are kept: whoever finds them there guesses as if it had computed them.
TEST(SpeculationPrefixTest, BlocksOfEndedRequestsAreAsGoodForGuesses) {
  using Guesses = std::vector<std::vector<uint32_t>>;
  std::vector<uint32_t> prompt(140);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<uint32_t>(3 + i * 37 % 500);
  // Of the second of two requests, the first of which ends after `first_tokens`.
  const auto guesses_of = [&](bool prefix_cache, uint32_t first_tokens) {
    LocalStackOptions options;
    options.model_dir = ::atl::testing::DemoModelDir();
    options.threads = 1;
    options.engine.speculate = 2;
    options.engine.speculate_always = true;
    options.engine.prefix_cache = prefix_cache;
    auto stack = *LocalStack::Open(options);
    Guesses guesses;
    stack->engine()->SetDraftHookForTest(
        [&guesses](const attention::Sequence& s, std::vector<uint32_t>* drafts) {
          if (s.start.max_tokens() == 12) guesses.push_back(*drafts);
        });
    stack->Start();
    for (const uint32_t tokens : {first_tokens, 12u}) {
      auto start = MakeStart(stack->checkpoint(), stack->profile(), prompt, tokens);
      if (tokens == 0) start.set_prompt_logprobs(0);  // else it computes nothing
      const Answer answer = RunOne(stack->engine(), Renamed(start, absl::StrCat("-", tokens)));
      EXPECT_TRUE(answer.status.ok()) << answer.status;
      EXPECT_EQ(answer.cached_prompt_tokens, prefix_cache && tokens == 12 ? 128 : 0);
    }
    stack->Stop();
    return guesses;
  };
  const Guesses computed = guesses_of(/*prefix_cache=*/false, 1);
  EXPECT_GT(computed.size(), 2);
  for (const uint32_t first_tokens : {0u, 1u, 3u})
    EXPECT_EQ(guesses_of(/*prefix_cache=*/true, first_tokens), computed) << first_tokens;
}

// A cluster whose routers do not know of the MTP layer: requests go on without guesses.
TEST(SpeculationWithoutExpertsTest, RequestsGoOn) {
  ThreadClusterOptions options = Options("demo", 2);
  options.dispatch = "service";
  options.holders = [](int32_t layer, int32_t) {
    return layer == 6 ? std::vector<int>{} : std::vector<int>{0};
  };
  auto cluster = StartOrDie(options);
  ASSERT_EQ(cluster->checkpoint().config().num_hidden_layers, 6);
  const Reference& reference = ReferenceFor("demo");
  const std::vector<Answer> answers = RunAll(cluster->attention(0), reference.starts);
  for (size_t i = 0; i < answers.size(); ++i)
    EXPECT_EQ(Difference(reference.answers[i], answers[i]), "") << i;
  EXPECT_EQ(cluster->attention(0)->stats().drafted_tokens, 0);
}

// On text that it was trained on the demo model's MTP layer is right (models/demo/README.md).
TEST(SpeculationAcceptanceTest, TheDemoModelGuessesItsAnswers) {
  LocalStackOptions options;
  options.model_dir = ::atl::testing::DemoModelDir();
  options.threads = 1;
  options.engine.speculate = 1;
  options.engine.speculate_always = true;
  auto stack = LocalStack::Open(options);
  ASSERT_TRUE(stack.ok()) << stack.status();
  (*stack)->Start();
  std::ifstream in(::atl::testing::DemoModelDir() + "/expected.json");
  const nlohmann::json expected = nlohmann::json::parse(in);
  for (const auto& one : expected["cases"]) {
    if (one["eos_at"].is_null()) continue;
    std::vector<uint32_t> ids = one["ids"];
    ids.resize(one["eos_at"].get<size_t>() + 1);
    const auto start = MakeStart((*stack)->checkpoint(), (*stack)->profile(), one["prompt_ids"],
                                 static_cast<uint32_t>(ids.size()));
    EXPECT_EQ(RunOne((*stack)->engine(), start).ids, ids);
  }
  const attention::EngineStats& stats = (*stack)->engine()->stats();
  EXPECT_GT(stats.drafted_tokens, 100);
  EXPECT_GT(static_cast<double>(stats.accepted_tokens),
            0.95 * static_cast<double>(stats.drafted_tokens));
}

}  // namespace
}  // namespace atl
