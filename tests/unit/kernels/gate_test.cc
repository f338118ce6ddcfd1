#include "kernels/gate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/exact_math.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

struct Choice {
  std::vector<int32_t> id;
  std::vector<float> weight;
};

Choice Select(const KernelContext& ctx, const GateParams& p, const std::vector<float>& logits,
              const float* bias) {
  const int64_t rows = static_cast<int64_t>(logits.size()) / p.n_routed_experts;
  Choice c = {std::vector<int32_t>(rows * p.num_experts_per_tok),
              std::vector<float>(rows * p.num_experts_per_tok)};
  SelectExperts(ctx, p, logits.data(), bias, rows, c.id.data(), c.weight.data());
  return c;
}

// The definition by sorting, one row, written apart from the kernel: scores in its order of
// operations, choices by stable sort.
Choice ByDefinition(const GateParams& p, const float* logits, const float* bias) {
  const int32_t e = p.n_routed_experts;
  std::vector<float> score(e);
  if (p.scoring_func == ScoringFunc::kSigmoid) {
    for (int32_t i = 0; i < e; ++i) score[i] = Sigmoid(logits[i]);
  } else {
    const float max = *std::max_element(logits, logits + e);
    float lane[16] = {};
    for (int32_t i = 0; i < e; ++i) lane[i % 16] += score[i] = Exp(logits[i] - max);
    const float sum = AddLanes(lane);
    for (float& s : score) s /= sum;
  }
  std::vector<float> choice = score;
  if (p.topk_method == TopkMethod::kNoauxTc) {
    for (int32_t i = 0; i < e; ++i) choice[i] += bias[i];
  }
  auto best = [](const std::vector<float>& v, int32_t n) {
    std::vector<int32_t> order(v.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return v[a] > v[b]; });
    order.resize(n);
    std::sort(order.begin(), order.end());
    return order;
  };
  if (p.topk_method != TopkMethod::kGreedy && p.n_group > 1) {
    const int32_t size = e / p.n_group;
    std::vector<float> group;
    for (int32_t g = 0; g < p.n_group; ++g) {
      std::vector<float> in(choice.begin() + g * size, choice.begin() + (g + 1) * size);
      std::sort(in.begin(), in.end(), std::greater<>());
      group.push_back(p.topk_method == TopkMethod::kNoauxTc && size > 1 ? in[0] + in[1] : in[0]);
    }
    const std::vector<int32_t> kept = best(group, p.topk_group);
    for (int32_t i = 0; i < e; ++i) {
      if (!std::binary_search(kept.begin(), kept.end(), i / size))
        choice[i] = -std::numeric_limits<float>::infinity();
    }
  }
  Choice c = {best(choice, p.num_experts_per_tok), {}};
  float sum = 0;
  for (int32_t id : c.id) c.weight.push_back(score[id]), sum += score[id];
  for (float& w : c.weight) {
    if (p.norm_topk_prob && p.num_experts_per_tok > 1) w /= sum + 1e-20f;
    w *= p.routed_scaling_factor;
  }
  return c;
}

std::vector<GateParams> Shapes() {
  using enum ScoringFunc;
  using enum TopkMethod;
  return {
      {kSigmoid, kNoauxTc, 256, 8, 8, 4, true, 2.5f},               // V3
      {kSigmoid, kNoauxTc, 384, 8, 1, 1, true, 2.827f},             // Kimi-K2
      {kSoftmax, kGreedy, 64, 6, 1, 1, false, 1.0f},                // V2-Lite
      {kSoftmax, kGroupLimitedGreedy, 160, 6, 8, 3, false, 16.0f},  // V2
      {kSigmoid, kNoauxTc, 12, 3, 4, 2, true, 1.5f},                // groups of 3
      {kSigmoid, kNoauxTc, 5, 2, 5, 3, true, 1.0f},                 // groups of one
      {kSoftmax, kGroupLimitedGreedy, 20, 4, 2, 1, true, 1.0f},
      {kSigmoid, kNoauxTc, 7, 1, 1, 1, true, 2.0f},    // K = 1: not normalised
      {kSoftmax, kGreedy, 40, 40, 4, 1, false, 1.0f},  // all; greedy knows no groups
  };
}

TEST(SelectExperts, IsItsDefinition) {
  uint32_t seed = 1;
  for (const GateParams& p : Shapes()) {
    const int64_t rows = 33, e = p.n_routed_experts, k = p.num_experts_per_tok;
    std::vector<float> logits = Random(rows * e, ++seed, 3);
    for (int64_t i = 0; i < 10 * e; ++i)
      logits[i] = std::round(logits[i]);  // ten rows full of ties
    const std::vector<float> bias = Random(e, ++seed, 0.2);
    const float* given = p.topk_method == TopkMethod::kNoauxTc ? bias.data() : nullptr;
    ForEachContext([&](const KernelContext& ctx) {
      const Choice c = Select(ctx, p, logits, given);
      std::vector<float> weighed(rows * k);
      WeighExperts(ctx, p, logits.data(), rows, c.id.data(), weighed.data());
      ASSERT_TRUE(SameBits(weighed, c.weight));
      for (int64_t t = 0; t < rows; ++t) {
        const Choice expected = ByDefinition(p, &logits[t * e], given);
        ASSERT_EQ(std::vector<int32_t>(&c.id[t * k], &c.id[t * k] + k), expected.id)
            << "E " << e << " row " << t;
        ASSERT_TRUE(SameBits(std::span(&c.weight[t * k], k), expected.weight))
            << "E " << e << " row " << t;
      }
    });
  }
}

TEST(SelectExperts, TiesGoToTheLowerId) {
  const GateParams p = {ScoringFunc::kSigmoid, TopkMethod::kNoauxTc, 16, 3, 4, 2, true, 1.0f};
  const std::vector<float> bias(16, 0.0f);
  const Choice c = Select(Context(BestIsa()), p, std::vector<float>(16, 0.25f), bias.data());
  EXPECT_EQ(c.id, (std::vector<int32_t>{0, 1, 2}));
}

// The reason for -inf: filling masked groups with 0 would let them win over negative biased scores.
TEST(SelectExperts, MaskedGroupsNeverWinOverNegativeScores) {
  const GateParams p = {ScoringFunc::kSigmoid, TopkMethod::kNoauxTc, 8, 2, 2, 1, true, 1.0f};
  std::vector<float> logits(8, 0.0f), bias(8, -5.0f);
  logits[6] = 1;  // its group is the better one; every biased score is negative
  const Choice c = Select(Context(BestIsa()), p, logits, bias.data());
  EXPECT_EQ(c.id, (std::vector<int32_t>{4, 6}));
}

TEST(SelectExperts, BiasChoosesAndDoesNotWeigh) {
  const GateParams p = {ScoringFunc::kSigmoid, TopkMethod::kNoauxTc, 4, 1, 1, 1, false, 1.0f};
  const std::vector<float> logits = {2, 0, -1, 1};
  const float bias[] = {0, 0, 3, 0};
  const Choice c = Select(Context(BestIsa()), p, logits, bias);
  EXPECT_EQ(c.id[0], 2);
  EXPECT_EQ(c.weight[0], Sigmoid(-1.0f));
}

TEST(SelectExperts, AGroupScoresTwoInV3AndOneInV2) {
  // Group 0 has the best expert, group 1 the two best together.
  const std::vector<float> logits = {3, -3, 2, 2};
  const std::vector<float> bias(4, 0.0f);
  const GateParams v3 = {ScoringFunc::kSigmoid, TopkMethod::kNoauxTc, 4, 1, 2, 1, false, 1.0f};
  EXPECT_EQ(Select(Context(BestIsa()), v3, logits, bias.data()).id[0], 2);
  const GateParams v2 = {
      ScoringFunc::kSoftmax, TopkMethod::kGroupLimitedGreedy, 4, 1, 2, 1, false, 1.0f};
  EXPECT_EQ(Select(Context(BestIsa()), v2, logits, nullptr).id[0], 0);
}

TEST(SelectExperts, NormalisedWeightsSumToTheFactor) {
  const GateParams p = Shapes()[0];
  const std::vector<float> logits = Random(256, 77, 4), bias = Random(256, 78, 0.1);
  const Choice c = Select(Context(BestIsa()), p, logits, bias.data());
  EXPECT_NEAR(std::accumulate(c.weight.begin(), c.weight.end(), 0.0), 2.5, 1e-5);
}

TEST(SelectExperts, NanLogitsStillGiveDistinctExpertsInRange) {
  for (const GateParams& p : Shapes()) {
    std::vector<float> logits(p.n_routed_experts, std::nanf(""));
    const std::vector<float> bias(p.n_routed_experts, 0.1f);
    for (Isa isa : SupportedIsas()) {
      const Choice c = Select(Context(isa), p, logits,
                              p.topk_method == TopkMethod::kNoauxTc ? bias.data() : nullptr);
      for (size_t j = 0; j < c.id.size(); ++j) {
        ASSERT_GE(c.id[j], j > 0 ? c.id[j - 1] + 1 : 0);
        ASSERT_LT(c.id[j], p.n_routed_experts);
      }
    }
  }
}

TEST(CombineRow, IsOneChainInAscendingOrder) {
  for (int64_t d : {1, 16, 44, 136}) {
    for (int32_t num : {0, 1, 8}) {
      const std::vector<float> weight = Random(num, 5), shared = RoundedToBf16(Random(d, 6));
      std::vector<std::vector<float>> out;
      for (int32_t j = 0; j < num; ++j)
        out.push_back(RoundedToBf16(Random(d, 10 + j, std::ldexp(1.0f, 3 * j))));
      for (bool with_shared : {false, true}) {
        std::vector<float> expected(d);
        for (int64_t i = 0; i < d; ++i) {
          expected[i] = with_shared ? shared[i] : 0.0f;
          for (int32_t j = 0; j < num; ++j)
            expected[i] = std::fma(weight[j], out[j][i], expected[i]);
        }
        for (Isa isa : SupportedIsas()) {
          const KernelContext ctx = Context(isa);
          std::vector<const void*> rows;
          for (auto& row : out) rows.push_back(row.data());
          std::vector<float> y(d);
          CombineRow(ctx, DType::kF32, d, with_shared ? shared.data() : nullptr, rows.data(),
                     weight.data(), num, y.data());
          ASSERT_TRUE(SameBits(y, expected)) << IsaName(isa) << " d " << d;

          auto narrow = [](const std::vector<float>& x) {
            std::vector<Bf16> n;
            for (float v : x) n.push_back(F32ToBf16(v));
            return n;
          };
          std::vector<std::vector<Bf16>> narrow_out;
          std::vector<const void*> narrow_rows;
          for (auto& row : out) narrow_out.push_back(narrow(row));
          for (auto& row : narrow_out) narrow_rows.push_back(row.data());
          const std::vector<Bf16> narrow_shared = narrow(shared);
          std::vector<Bf16> narrow_y(d);
          CombineRow(ctx, DType::kBf16, d, with_shared ? narrow_shared.data() : nullptr,
                     narrow_rows.data(), weight.data(), num, narrow_y.data());
          ASSERT_EQ(narrow_y, narrow(expected)) << IsaName(isa) << " d " << d;
        }
      }
    }
  }
}

}  // namespace
}  // namespace atl::kernels
