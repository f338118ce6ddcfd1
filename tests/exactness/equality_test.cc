// P1, exactness: the same bits of tokens and logprobs whatever the arrangement. Each case is
// compared with the same requests answered alone, one after the other, by one expert node in one
// process.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/context.h"
#include "tests/support/golden.h"
#include "tests/support/reference_answers.h"

namespace atl::testing {
namespace {

// Every request at once (those of one attention node share its steps), spread over the attention
// nodes.
void ExpectSameAnswers(ThreadCluster* cluster, int num_attention, const std::string& model,
                       const std::string& profile) {
  const Reference& reference = ReferenceFor(model, profile);
  std::vector<std::unique_ptr<PendingAnswer>> pending;
  for (size_t i = 0; i < reference.starts.size(); ++i) {
    pending.push_back(StartRun(cluster->attention(i % num_attention), reference.starts[i]));
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
  return Word(std::get<0>(info.param) + "_" + std::get<1>(info.param) + "_" +
              std::get<2>(info.param).name);
}

// The demo model has FP8 weights, groups and biases; the presets reach what it does not: softmax
// and group_limited_greedy, no q_lora, tied embeddings, YaRN.
INSTANTIATE_TEST_SUITE_P(Demo, EqualityTest,
                         ::testing::Combine(::testing::Values("demo"),
                                            ::testing::Values("bf16", "reference"),
                                            ::testing::ValuesIn(Arrangements())),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Presets, EqualityTest,
                         ::testing::Combine(::testing::ValuesIn(GoldenPresets()),
                                            ::testing::Values("bf16"),
                                            ::testing::ValuesIn(Arrangements())),
                         CaseName);

std::vector<Arrangement> ArrangementsThatBegin(const std::vector<std::string>& starts) {
  std::vector<Arrangement> chosen;
  for (const Arrangement& arrangement : Arrangements()) {
    for (const std::string& start : starts) {
      if (arrangement.name.starts_with(start)) chosen.push_back(arrangement);
    }
  }
  return chosen;
}

// Quantised weights have kernels of their own; what lies between nodes is as with bf16.
std::vector<Arrangement> QuantisedArrangements() {
  return ArrangementsThatBegin({"Experts", "InprocService", "Attention2", "Chunk", "StepOf5",
                                "OneM", "OneS", "Threads", "Isa"});
}

INSTANTIATE_TEST_SUITE_P(Quantised, EqualityTest,
                         ::testing::Combine(::testing::Values("demo", "v2_lite"),
                                            ::testing::Values("q8", "q4", "fp8w"),
                                            ::testing::ValuesIn(QuantisedArrangements())),
                         CaseName);

// Other caches and another form of attention change nothing outside attention.
INSTANTIATE_TEST_SUITE_P(
    Attention, EqualityTest,
    ::testing::Combine(::testing::Values("demo", "v2_lite"),
                       ::testing::Values("bf16+fp8cache", "q8+fp8cache", "bf16+expanded",
                                         "q8+fp8cache+expanded"),
                       ::testing::ValuesIn(ArrangementsThatBegin({"Chunk", "StepOf5", "OneM",
                                                                  "OneS", "Threads", "Isa"}))),
    CaseName);

}  // namespace
}  // namespace atl::testing
