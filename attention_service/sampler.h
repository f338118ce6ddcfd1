// From a row of logits to a token, in the order that inference.proto writes: logit_bias;
// repetition_penalty; presence and frequency penalties; temperature; top_k; top_p; min_p; one draw
// from (seed, position) over ids in ascending order.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "atollpb/v1/attention.pb.h"
#include "kernels/context.h"
#include "kernels/logits.h"

namespace atl::attention {

// The sampler of one sequence: its parameters, and which ids it has seen. A pure function of the
// ids pushed. Thread-compatible.
class Sampler {
 public:
  // `prompt` is read only if a penalty needs it.
  Sampler(const atollpb::v1::ResolvedSampling& params, std::span<const uint32_t> prompt);

  // A token was generated (or replayed).
  void Push(uint32_t id);

  // The token at `position` (its place in prompt + generated) for logits [V], which are changed in
  // place. Source of the rules: inference.proto. Float32; ties to the lower id; top_p is taken of
  // the probabilities that top_k left, min_p of the most likely one's; both keep at least one id.
  uint32_t Sample(const kernels::KernelContext& ctx, std::span<float> logits, uint64_t position);

 private:
  void ApplyPenalties(std::span<float> logits) const;
  uint32_t Draw(const kernels::KernelContext& ctx, std::span<float> logits, uint64_t position);

  const float temperature_, top_p_, min_p_, repetition_penalty_, presence_penalty_,
      frequency_penalty_;
  const uint32_t top_k_;
  const uint64_t seed_;
  std::vector<std::pair<uint32_t, float>> logit_bias_;
  bool penalised_;
  // Times generated; prompt ids are in it with 0.
  std::unordered_map<uint32_t, uint32_t> seen_;
  std::vector<kernels::TopEntry> sorted_;
};

// InvalidArgument names the first parameter outside its range (inference.proto's; all finite), or a
// logit_bias id beyond the vocabulary.
Status CheckSampling(const atollpb::v1::ResolvedSampling& params, int64_t vocab_size);

// Log-probability of `id` and of the `num_top` most likely ids, of raw logits [V].
void FillLogprob(const kernels::KernelContext& ctx, std::span<const float> logits, uint32_t id,
                 int num_top, atollpb::v1::TokenLogprob* out);

}  // namespace atl::attention
