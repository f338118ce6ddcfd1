#include "attention_service/sampler.h"

#include <algorithm>
#include <limits>

#include "attention_service/philox.h"

namespace atl::attention {

using kernels::TopEntry;

Sampler::Sampler(const atollpb::v1::ResolvedSampling& params, std::span<const uint32_t> prompt)
    : temperature_(params.temperature()),
      top_p_(params.top_p()),
      min_p_(params.min_p()),
      repetition_penalty_(params.repetition_penalty()),
      presence_penalty_(params.presence_penalty()),
      frequency_penalty_(params.frequency_penalty()),
      top_k_(params.top_k()),
      seed_(params.seed()),
      logit_bias_(params.logit_bias().begin(), params.logit_bias().end()),
      penalised_(repetition_penalty_ != 1.0f || presence_penalty_ != 0.0f ||
                 frequency_penalty_ != 0.0f) {
  if (penalised_) {
    for (uint32_t id : prompt) seen_.try_emplace(id, 0);
  }
}

void Sampler::Push(uint32_t id) {
  if (penalised_) ++seen_[id];
}

// Each id's logit is changed on its own, so the map's order does not matter.
void Sampler::ApplyPenalties(std::span<float> logits) const {
  for (const auto& [id, bias] : logit_bias_) {
    if (id < logits.size()) logits[id] += bias;
  }
  for (const auto& [id, count] : seen_) {
    if (id >= logits.size()) continue;
    float& logit = logits[id];
    logit = logit > 0 ? logit / repetition_penalty_ : logit * repetition_penalty_;
    if (count > 0) {
      logit -= presence_penalty_;
      logit -= frequency_penalty_ * static_cast<float>(count);
    }
  }
}

uint32_t Sampler::Sample(const kernels::KernelContext& ctx, std::span<float> logits,
                         uint64_t position) {
  ApplyPenalties(logits);
  if (temperature_ == 0.0f) return kernels::ArgMax(ctx, logits.data(), logits.size());
  for (float& logit : logits) logit /= temperature_;
  return Draw(ctx, logits, position);
}

uint32_t Sampler::Draw(const kernels::KernelContext& ctx, std::span<float> logits,
                       uint64_t position) {
  const int64_t vocab = logits.size();
  const int32_t best = kernels::ArgMax(ctx, logits.data(), vocab);
  // A tiny temperature makes the best logit infinite: then it is certain.
  if (!(logits[best] < std::numeric_limits<float>::infinity())) return best;
  // Unnormalised probabilities relative to the best one, which is 1.
  kernels::ExpSum(ctx, logits.data(), vocab, logits[best], logits.data());

  // The cut: ids below it in (probability, then lower id) order are dropped.
  TopEntry cut{static_cast<int32_t>(vocab), -1.0f};  // keeps all
  const bool by_rank = (top_k_ > 0 && top_k_ < vocab) || top_p_ < 1.0f;
  if (by_rank) {
    sorted_.clear();
    for (int64_t i = 0; i < vocab; ++i) {
      const float p = logits[i] >= 0 ? logits[i] : 0;  // NaN has no place in an order
      sorted_.push_back({static_cast<int32_t>(i), p});
    }
    const auto before = [](const TopEntry& a, const TopEntry& b) {
      return a.value > b.value || (a.value == b.value && a.id < b.id);
    };
    size_t kept = sorted_.size();
    if (top_k_ > 0 && top_k_ < kept) {
      std::nth_element(sorted_.begin(), sorted_.begin() + top_k_, sorted_.end(), before);
      kept = top_k_;
    }
    std::sort(sorted_.begin(), sorted_.begin() + kept, before);
    if (top_p_ < 1.0f) {
      float total = 0;
      for (size_t i = 0; i < kept; ++i) total += sorted_[i].value;
      const float enough = top_p_ * total;
      float sum = 0;
      size_t n = 0;
      while (n < kept && (n == 0 || sum < enough)) sum += sorted_[n++].value;
      kept = n;
    }
    cut = sorted_[kept - 1];
  }
  const auto keep = [&](int64_t i) {
    const float p = logits[i];
    if (p < min_p_) return false;
    return p > cut.value || (p == cut.value && i <= cut.id);
  };
  float total = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    if (keep(i)) total += logits[i];
  }
  const float target = UniformAt(seed_, position) * total;
  float sum = 0;
  int32_t last = best;
  for (int64_t i = 0; i < vocab; ++i) {
    if (!keep(i)) continue;
    sum += logits[i];
    last = static_cast<int32_t>(i);
    if (sum > target) return last;
  }
  return last;  // rounding left the target at the very end
}

Status CheckSampling(const atollpb::v1::ResolvedSampling& params, int64_t vocab_size) {
  struct Range {
    const char* name;
    float value;
    bool inside;  // false for NaN
  };
  const auto finite = [](float value) { return std::isfinite(value); };
  const float temperature = params.temperature(), top_p = params.top_p(), min_p = params.min_p();
  const float repetition = params.repetition_penalty();
  for (const Range& range :
       {Range{"temperature", temperature, finite(temperature) && temperature >= 0},
        Range{"top_p", top_p, top_p > 0 && top_p <= 1},
        Range{"min_p", min_p, min_p >= 0 && min_p <= 1},
        Range{"repetition_penalty", repetition, finite(repetition) && repetition > 0},
        Range{"presence_penalty", params.presence_penalty(), finite(params.presence_penalty())},
        Range{"frequency_penalty", params.frequency_penalty(),
              finite(params.frequency_penalty())}}) {
    if (!range.inside) return InvalidArgument("%s of %g is out of range", range.name, range.value);
  }
  for (const auto& [id, bias] : params.logit_bias()) {
    if (id >= vocab_size) return InvalidArgument("logit_bias for id %d of %d", id, vocab_size);
    if (!finite(bias)) return InvalidArgument("logit_bias of %g for id %d", bias, id);
  }
  return absl::OkStatus();
}

void FillLogprob(const kernels::KernelContext& ctx, std::span<const float> logits, uint32_t id,
                 int num_top, atollpb::v1::TokenLogprob* out) {
  const float log_sum = kernels::LogSumExp(ctx, logits.data(), logits.size());
  out->set_id(id);
  out->set_logprob(logits[id] - log_sum);
  if (num_top == 0) return;
  std::vector<TopEntry> top(std::min<size_t>(num_top, logits.size()));
  kernels::TopN(ctx, logits.data(), logits.size(), top);
  for (const TopEntry& entry : top) {
    auto* t = out->add_top();
    t->set_id(entry.id);
    t->set_logprob(entry.value - log_sum);
  }
}

}  // namespace atl::attention
