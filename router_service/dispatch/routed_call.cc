#include "router_service/dispatch/routed_call.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"

namespace atl::dispatch {

using transport::WorkPair;

RoutedCall::RoutedCall(DispatchCall call, const model::ModelConfig& config,
                       const model::NumericProfile& profile)
    : d_(config.hidden_size),
      k_(config.num_experts_per_tok),
      num_routed_(config.n_routed_experts),
      has_shared_(config.n_shared_experts > 0),
      wire_(profile.wire),
      row_bytes_(config.hidden_size * DTypeBytes(profile.wire)),
      call_(std::move(call)) {}

void RoutedCall::Gate(const kernels::KernelContext& ctx, const GateWeights& gates) {
  const int64_t rows = call_.rows;
  std::vector<float> widened;
  const float* x = call_.x.as<float>();
  if (wire_ == DType::kBf16) {
    widened.resize(rows * d_);
    kernels::Bf16ToF32Range(ctx, call_.x.as<Bf16>(), rows * d_, widened.data());
    x = widened.data();
  }
  logits_.resize(rows * num_routed_);
  expert_id_.resize(rows * k_);
  weight_.resize(rows * k_);
  kernels::MatMul(ctx, kernels::MatMulJob{.w = &gates.weight(call_.layer),
                                          .x = x,
                                          .ldx = d_,
                                          .m = rows,
                                          .y = logits_.data(),
                                          .ldy = num_routed_});
  kernels::SelectExperts(ctx, gates.params(), logits_.data(),
                         gates.bias(call_.layer, call_.bias_version), rows, expert_id_.data(),
                         weight_.data());
}

void RoutedCall::Reweigh(const kernels::KernelContext& ctx, const GateWeights& gates) {
  kernels::WeighExperts(ctx, gates.params(), logits_.data(), call_.rows, expert_id_.data(),
                        weight_.data());
}

// A counting sort by expert; rows stay ascending.
void RoutedCall::MakePairs() {
  const int64_t rows = call_.rows, slots = k_ + (has_shared_ ? 1 : 0);
  std::vector<int32_t> begin(num_routed_ + 1, 0);
  for (int32_t id : expert_id_) ++begin[id + 1];
  for (int64_t e = 0; e < num_routed_; ++e) begin[e + 1] += begin[e];
  pairs_.resize(rows * slots);
  pair_of_.resize(rows * slots);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < k_; ++j) {
      const int32_t expert = expert_id_[row * k_ + j];
      const int32_t i = begin[expert]++;
      pairs_[i] = {.row = static_cast<uint32_t>(row), .expert = static_cast<uint32_t>(expert)};
      pair_of_[row * slots + j] = i;
    }
  }
  if (has_shared_) {
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t i = static_cast<int32_t>(rows * k_ + row);
      pairs_[i] = {.row = static_cast<uint32_t>(row), .expert = static_cast<uint32_t>(num_routed_)};
      pair_of_[row * slots + k_] = i;
    }
  }
  out_.assign(pairs_.size(), nullptr);
  unanswered_ = pairs_.size();
}

Buffer RoutedCall::WorkPayload(std::span<const int32_t> pair_idx, uint32_t* num_rows) const {
  // New numbers in ascending old ones.
  std::vector<int32_t> renumbered(call_.rows, -1);
  for (int32_t i : pair_idx) renumbered[pairs_[i].row] = 0;
  int32_t count = 0;
  for (int32_t& number : renumbered) {
    if (number == 0) number = count++;
  }
  Buffer payload(count * row_bytes_ + pair_idx.size() * sizeof(WorkPair));
  for (int64_t row = 0; row < call_.rows; ++row) {
    if (renumbered[row] < 0) continue;
    std::memcpy(payload.data() + renumbered[row] * row_bytes_, call_.x.data() + row * row_bytes_,
                row_bytes_);
  }
  std::byte* to = payload.data() + count * row_bytes_;
  for (int32_t i : pair_idx) {
    const WorkPair pair{.row = static_cast<uint32_t>(renumbered[pairs_[i].row]),
                        .expert = pairs_[i].expert};
    std::memcpy(to, &pair, sizeof(pair));
    to += sizeof(pair);
  }
  *num_rows = static_cast<uint32_t>(count);
  return payload;
}

void RoutedCall::AddOuts(std::span<const int32_t> pair_idx, Buffer outs) {
  for (size_t i = 0; i < pair_idx.size(); ++i) {
    const std::byte*& out = out_[pair_idx[i]];
    if (out != nullptr) continue;  // another holder was first: the same bits
    out = outs.data() + i * row_bytes_;
    --unanswered_;
  }
  buffers_.push_back(std::move(outs));
}

Buffer RoutedCall::Combine(const kernels::KernelContext& ctx) const {
  ATL_CHECK(complete());
  const int64_t rows = call_.rows, slots = k_ + (has_shared_ ? 1 : 0);
  Buffer y(rows * row_bytes_);
  std::vector<const void*> outs(rows * k_);
  const auto combine = [&](int64_t row) {
    for (int64_t j = 0; j < k_; ++j) outs[row * k_ + j] = out_[pair_of_[row * slots + j]];
    const void* shared = has_shared_ ? out_[pair_of_[row * slots + k_]] : nullptr;
    kernels::CombineRow(ctx, wire_, d_, shared, outs.data() + row * k_, weight_.data() + row * k_,
                        static_cast<int32_t>(k_), y.data() + row * row_bytes_);
  };
  if (ctx.pool != nullptr && rows >= 8) {
    ctx.pool->ParallelFor(rows, combine);
  } else {
    for (int64_t row = 0; row < rows; ++row) combine(row);
  }
  return y;
}

}  // namespace atl::dispatch
