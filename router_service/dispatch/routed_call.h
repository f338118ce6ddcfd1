// One dispatch call between its gate and its combine: which (row, expert) pairs there are and which
// outs have come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "kernels/context.h"
#include "model/config.h"
#include "model/profile.h"
#include "router_service/dispatch/expert_fabric.h"
#include "router_service/dispatch/gate_weights.h"
#include "transport/frame.h"

namespace atl::dispatch {

// Thread-compatible. Pairs are in ascending (expert, row); the shared expert's come last, for its
// id is E.
class RoutedCall {
 public:
  RoutedCall(DispatchCall call, const model::ModelConfig& config,
             const model::NumericProfile& profile);

  // Fills ids and weights from the gate, reading the rows as they were rounded for the wire.
  void Gate(const kernels::KernelContext& ctx, const GateWeights& gates);
  // After ids or weights were changed by a hook: weighs the ids as chosen.
  void Reweigh(const kernels::KernelContext& ctx, const GateWeights& gates);
  // From ids to pairs; every pair is then unanswered.
  void MakePairs();

  const DispatchCall& call() const { return call_; }
  int64_t num_pairs() const { return pairs_.size(); }
  const transport::WorkPair& pair(int32_t i) const { return pairs_[i]; }
  int32_t* expert_ids() { return expert_id_.data(); }  // [rows, K] ascending in a row
  float* weights() { return weight_.data(); }          // [rows, K]

  // Payload of a kWork frame for `pair_idx` (ascending): the rows they need, each once, then the
  // pairs, renumbered.
  Buffer WorkPayload(std::span<const int32_t> pair_idx, uint32_t* num_rows) const;

  // Outs of `pair_idx`, in that order. The payload stays here until the combine.
  void AddOuts(std::span<const int32_t> pair_idx, Buffer outs);
  bool complete() const { return unanswered_ == 0; }
  bool answered(int32_t pair) const { return out_[pair] != nullptr; }

  // y [rows, D] in the wire type: the shared expert, then the routed ones in ascending id. REQUIRES
  // complete().
  Buffer Combine(const kernels::KernelContext& ctx) const;

 private:
  const int64_t d_;
  const int64_t k_;
  const int64_t num_routed_;
  const bool has_shared_;
  const DType wire_;
  const int64_t row_bytes_;
  DispatchCall call_;
  std::vector<float> logits_;       // [rows, E]
  std::vector<int32_t> expert_id_;  // [rows, K]
  std::vector<float> weight_;       // [rows, K]
  std::vector<transport::WorkPair> pairs_;
  std::vector<int32_t> pair_of_;       // [rows, K (+ 1 for the shared one)]
  std::vector<const std::byte*> out_;  // [pairs]
  std::vector<Buffer> buffers_;
  int64_t unanswered_ = 0;
};

}  // namespace atl::dispatch
