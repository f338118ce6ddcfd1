// The gate: which experts a token goes to, and with what weight.
// Source: DeepSeek-V3 inference/model.py `Gate`; DeepSeek-V2 `MoEGate` (group_limited_greedy).
// Traps: docs/numerics.md.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/context.h"

namespace atl::kernels {

enum class ScoringFunc : uint8_t { kSoftmax, kSigmoid };
enum class TopkMethod : uint8_t { kGreedy, kGroupLimitedGreedy, kNoauxTc };

struct GateParams {
  ScoringFunc scoring_func = ScoringFunc::kSigmoid;
  TopkMethod topk_method = TopkMethod::kNoauxTc;
  int32_t n_routed_experts = 0;     // E
  int32_t num_experts_per_tok = 0;  // K
  int32_t n_group = 1;
  int32_t topk_group = 1;
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1;
};

// From logits to experts, a row at a time, float32 in a fixed order.
//   logits [rows, E]; bias [E] (e_score_correction_bias, kNoauxTc only, else null)
//   expert_id [rows, K] ascending; weight [rows, K] in the same order
// The bias takes part in choosing groups and experts, never in the weight. A group scores the sum
// of its two best biased scores (kNoauxTc) or its best score (kGroupLimitedGreedy); groups not kept
// are -inf. Ties go to the lower id. norm_topk_prob with K > 1: weight / (sum + 1e-20), summed in
// ascending id; then times routed_scaling_factor. REQUIRES: E % n_group == 0, K <= topk_group * E /
// n_group, E <= 4096.
void SelectExperts(const KernelContext& ctx, const GateParams& params, const float* logits,
                   const float* bias, int64_t rows, int32_t* expert_id, float* weight);

// The weights that SelectExperts would give had it chosen `expert_id` [rows, K] (ascending): a hook
// for tests that force the experts of another run.
void WeighExperts(const KernelContext& ctx, const GateParams& params, const float* logits,
                  int64_t rows, const int32_t* expert_id, float* weight);

// y[D] = round(shared + sum over pairs in ascending expert id of weight * out): acc = shared (zeros
// if null), then acc = fma(weight[j], out[j], acc) for j = 0..num-1.
//   out[j]: D values of `type` (kF32 or kBf16); shared likewise; y: D values of `type`.
void CombineRow(const KernelContext& ctx, DType type, int64_t d, const void* shared,
                const void* const* out, const float* weight, int32_t num, void* y);

}  // namespace atl::kernels
