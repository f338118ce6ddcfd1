// The equality tests can fail: an expert node that adds up its outs before it answers (fewer bytes
// on the wire, and what many systems do) makes the sum depend on placement, and the comparison of
// bits sees it.
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <vector>

#include "attention_service/latent_cache.h"
#include "attention_service/model_runner.h"
#include "base/dtype.h"
#include "local/offline_forward.h"
#include "router_service/dispatch/routed_call.h"
#include "tests/support/golden.h"

namespace atl {
namespace {

using local::LocalStack;
using local::LocalStackOptions;

// The mutation: y = sum over nodes of (the node's own sum of weight * out). Everything else is as
// in the system.
class PreReducingFabric : public dispatch::ExpertFabric {
 public:
  PreReducingFabric(LocalStack* stack, const dispatch::GateWeights* gates, int num_nodes)
      : stack_(stack), gates_(gates), num_nodes_(num_nodes) {}

  uint64_t Submit(dispatch::DispatchCall call) override {
    const model::ModelConfig& c = stack_->checkpoint().config();
    const int64_t d = c.hidden_size, rows = call.rows, k = c.num_experts_per_tok;
    std::vector<float> x(rows * d);
    for (int64_t i = 0; i < rows * d; ++i) x[i] = Bf16ToF32(call.x.as<Bf16>()[i]);
    const int32_t layer = call.layer;
    dispatch::RoutedCall routed(std::move(call), c, stack_->profile());
    routed.Gate(stack_->ctx(), *gates_);
    routed.MakePairs();
    std::vector<std::vector<float>> sums(num_nodes_, std::vector<float>(rows * d));
    for (int32_t i = 0; i < routed.num_pairs(); ++i) {
      const transport::WorkPair pair = routed.pair(i);
      float weight = 1;
      for (int64_t j = 0; j < k; ++j) {
        if (routed.expert_ids()[pair.row * k + j] == static_cast<int32_t>(pair.expert)) {
          weight = routed.weights()[pair.row * k + j];
        }
      }
      std::vector<float> out(d);
      EXPECT_TRUE(stack_->expert_engine(0)
                      ->Compute(layer, rows, x.data(), std::span(&pair, 1), out.data())
                      .ok());
      std::vector<float>& sum = sums[pair.expert % num_nodes_];
      for (int64_t n = 0; n < d; ++n) sum[pair.row * d + n] += weight * out[n];
    }
    Buffer y(rows * d * sizeof(Bf16));
    for (int64_t i = 0; i < rows * d; ++i) {
      float total = 0;
      for (const auto& sum : sums) total += RoundToBf16(sum[i]);
      y.as<Bf16>()[i] = F32ToBf16(total);
    }
    answers_[next_id_] = std::move(y);
    return next_id_++;
  }

  Status Wait(uint64_t call_id, Buffer* y) override {
    *y = std::move(answers_.at(call_id));
    answers_.erase(call_id);
    return absl::OkStatus();
  }

 private:
  LocalStack* const stack_;
  const dispatch::GateWeights* const gates_;
  const int num_nodes_;
  std::map<uint64_t, Buffer> answers_;
  uint64_t next_id_ = 1;
};

std::vector<float> LogitsOver(LocalStack* stack, dispatch::ExpertFabric* fabric) {
  const model::ModelConfig& c = stack->checkpoint().config();
  attention::LatentCache cache(
      attention::CacheShape(c, stack->profile(), stack->weights().softmax_scale),
      stack->weights().layers.size(), 2);
  attention::ModelRunner runner(stack->ctx(), &stack->weights(), &cache, fabric, 1, 1);
  const std::vector<attention::BlockId> blocks = {*cache.Acquire(), *cache.Acquire()};
  const std::span<const attention::BlockId> table(blocks);
  std::vector<attention::StepRow> rows;
  std::vector<int32_t> wanted;
  for (int32_t i = 0; i < 40; ++i) {
    rows.push_back({static_cast<uint32_t>(3 + i * 11), i, 0});
    wanted.push_back(i);
  }
  std::vector<float> hidden(rows.size() * c.hidden_size), logits(rows.size() * c.vocab_size);
  EXPECT_TRUE(runner.Run(rows, std::span(&table, 1), 0, wanted, hidden.data()).ok());
  runner.Logits(hidden.data(), rows.size(), logits.data());
  return logits;
}

int64_t DifferentBits(const std::vector<float>& a, const std::vector<float>& b) {
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i)
    count += std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i]);
  return count;
}

TEST(MutationTest, PreReductionOnExpertNodesBreaksEquality) {
  LocalStackOptions options;
  options.model_dir = ::atl::testing::DemoModelDir();
  options.profile = "bf16";
  options.dispatch = "inline";
  auto stack = LocalStack::Open(options);
  ASSERT_TRUE(stack.ok()) << stack.status();
  auto gates = dispatch::GateWeights::Load((*stack)->checkpoint(), nullptr);
  ASSERT_TRUE(gates.ok()) << gates.status();
  const std::vector<float> exact = LogitsOver(stack->get(), (*stack)->fabric());
  PreReducingFabric one(stack->get(), gates->get(), 1), four(stack->get(), gates->get(), 4);
  const std::vector<float> over_one = LogitsOver(stack->get(), &one),
                           over_four = LogitsOver(stack->get(), &four);
  EXPECT_GT(DifferentBits(over_one, over_four), 0) << "placement would show in the tokens' bits";
  EXPECT_GT(DifferentBits(exact, over_four), 0);
  EXPECT_EQ(DifferentBits(exact, LogitsOver(stack->get(), (*stack)->fabric())), 0);
}

}  // namespace
}  // namespace atl
