#include "kernels/gate.h"

#include <array>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/table.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

constexpr int64_t kMaxExperts = 4096;
constexpr float kNone = -std::numeric_limits<float>::infinity();

// The best `limit` of what is offered in ascending id; equals stay in that order.
class Best {
 public:
  Best(int32_t limit, int32_t* id, float* value) : limit_(limit), id_(id), value_(value) {}

  void Offer(int32_t id, float value) {
    if (size_ == limit_ && !(value > value_[size_ - 1])) return;
    int32_t at = size_ < limit_ ? size_++ : size_ - 1;
    for (; at > 0 && value > value_[at - 1]; --at) {
      id_[at] = id_[at - 1];
      value_[at] = value_[at - 1];
    }
    id_[at] = id;
    value_[at] = value;
  }

 private:
  const int32_t limit_;
  int32_t size_ = 0;
  int32_t* const id_;
  float* const value_;
};

void SortAscending(int32_t* id, int32_t num) {
  for (int32_t i = 1; i < num; ++i) {
    const int32_t moved = id[i];
    int32_t at = i;
    for (; at > 0 && id[at - 1] > moved; --at) id[at] = id[at - 1];
    id[at] = moved;
  }
}

void Scores(const KernelContext& ctx, const GateParams& params, const float* logits, float* score) {
  const int64_t e = params.n_routed_experts;
  if (params.scoring_func == ScoringFunc::kSigmoid) return ctx.table->sigmoid(logits, e, score);
  const float sum = ctx.table->exp_sum(logits, e, ctx.table->max(logits, e), score);
  for (int64_t i = 0; i < e; ++i) score[i] = score[i] / sum;
}

float GroupScore(const GateParams& params, const float* choice, int32_t size) {
  float first = kNone, second = kNone;
  for (int32_t i = 0; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return params.topk_method == TopkMethod::kNoauxTc && size > 1 ? first + second : first;
}

// `choice` [E]: biased scores.
void Choose(const GateParams& params, const float* choice, int32_t* expert_id) {
  const int32_t size = params.n_routed_experts / params.n_group;
  std::array<bool, kMaxExperts> kept;
  const bool limited = params.topk_method != TopkMethod::kGreedy && params.n_group > 1 &&
                       params.topk_group < params.n_group;
  for (int32_t g = 0; g < params.n_group; ++g) kept[g] = !limited;
  if (limited) {
    std::array<int32_t, kMaxExperts> group;
    std::array<float, kMaxExperts> value;
    Best best(params.topk_group, group.data(), value.data());
    for (int32_t g = 0; g < params.n_group; ++g)
      best.Offer(g, GroupScore(params, choice + g * size, size));
    for (int32_t i = 0; i < params.topk_group; ++i) kept[group[i]] = true;
  }
  std::array<float, kMaxExperts> value;
  Best best(params.num_experts_per_tok, expert_id, value.data());
  for (int32_t g = 0; g < params.n_group; ++g) {
    if (!kept[g]) continue;  // as good as -inf: K <= topk_group * size experts are left
    for (int32_t i = g * size; i < (g + 1) * size; ++i) best.Offer(i, choice[i]);
  }
  SortAscending(expert_id, params.num_experts_per_tok);
}

void Weigh(const GateParams& params, const float* score, const int32_t* expert_id, float* weight) {
  const int32_t k = params.num_experts_per_tok;
  float sum = 0;
  for (int32_t j = 0; j < k; ++j) {
    weight[j] = score[expert_id[j]];
    sum += weight[j];
  }
  const bool norm = params.norm_topk_prob && k > 1;
  for (int32_t j = 0; j < k; ++j) {
    if (norm) weight[j] = weight[j] / (sum + 1e-20f);
    weight[j] *= params.routed_scaling_factor;
  }
}

}  // namespace

void SelectExperts(const KernelContext& ctx, const GateParams& params, const float* logits,
                   const float* bias, int64_t rows, int32_t* expert_id, float* weight) {
  const int64_t e = params.n_routed_experts, k = params.num_experts_per_tok;
  ATL_DCHECK(e <= kMaxExperts && params.n_group > 0 && e % params.n_group == 0);
  ForRows(ctx, rows, 16 * e, [&](int64_t t) {
    std::array<float, kMaxExperts> score, choice;
    Scores(ctx, params, logits + t * e, score.data());
    for (int64_t i = 0; i < e; ++i) {
      choice[i] = bias != nullptr ? score[i] + bias[i] : score[i];
      if (choice[i] != choice[i]) choice[i] = kNone;  // a row of NaN still gets K experts
    }
    Choose(params, choice.data(), expert_id + t * k);
    Weigh(params, score.data(), expert_id + t * k, weight + t * k);
  });
}

void WeighExperts(const KernelContext& ctx, const GateParams& params, const float* logits,
                  int64_t rows, const int32_t* expert_id, float* weight) {
  const int64_t e = params.n_routed_experts, k = params.num_experts_per_tok;
  ForRows(ctx, rows, 4 * e, [&](int64_t t) {
    std::array<float, kMaxExperts> score;
    Scores(ctx, params, logits + t * e, score.data());
    Weigh(params, score.data(), expert_id + t * k, weight + t * k);
  });
}

void CombineRow(const KernelContext& ctx, DType type, int64_t d, const void* shared,
                const void* const* out, const float* weight, int32_t num, void* y) {
  ATL_DCHECK(type == DType::kF32 || type == DType::kBf16);
  ctx.table->combine_row(type == DType::kBf16, d, shared, out, weight, num, y);
}

}  // namespace atl::kernels
