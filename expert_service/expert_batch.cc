#include "expert_service/expert_batch.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "metrics/histogram.h"
#include "weights/load_packed.h"

namespace atl::expert {
namespace {

// First pair after `begin` of another expert.
size_t EndOfExpert(std::span<const transport::WorkPair> pairs, size_t begin) {
  size_t end = begin + 1;
  while (end < pairs.size() && pairs[end].expert == pairs[begin].expert) ++end;
  return end;
}

}  // namespace

ExpertBatch::ExpertBatch(kernels::KernelContext ctx, const model::ModelConfig& config,
                         const model::NumericProfile& profile, ExpertStore* store)
    : ctx_(ctx),
      hidden_size_(config.hidden_size),
      act_(weights::RoundingOf(profile.activations)),
      wire_(weights::RoundingOf(profile.wire)),
      store_(store),
      found_(config.num_expert_ids()),
      begin_(config.num_expert_ids() + 1),
      next_(config.num_expert_ids()) {}

Status ExpertBatch::Find(int32_t layer, std::span<const transport::WorkPair> pairs) {
  for (size_t i = 0; i < pairs.size(); i = EndOfExpert(pairs, i)) {
    const int32_t expert = static_cast<int32_t>(pairs[i].expert);
    if (found_[expert] != nullptr) continue;
    found_[expert] = store_->Find({.layer = layer, .expert = expert});
    if (found_[expert] == nullptr)
      return NotFound("expert %d of layer %d is not held here", expert, layer);
    found_ids_.push_back(expert);
  }
  return absl::OkStatus();
}

void ExpertBatch::Clear() {
  for (int32_t expert : found_ids_) found_[expert] = nullptr;
  found_ids_.clear();
}

int64_t ExpertBatch::Compute(std::span<const BatchCall> calls) {
  WidenRows(calls);
  PlacePairs(calls);
  const int64_t spent_ns = RunJobs(calls);
  WriteOuts(calls);
  return spent_ns;
}

float* ExpertBatch::Scratch(Buffer* buffer, int64_t floats) {
  buffer->Grow(floats * sizeof(float));
  return buffer->as<float>();
}

void ExpertBatch::WidenRows(std::span<const BatchCall> calls) {
  if (calls.size() == 1 && calls[0].dtype == DType::kF32) {
    x_ = static_cast<const float*>(calls[0].x);
    return;
  }
  int64_t rows = 0;
  for (const BatchCall& call : calls) rows += call.rows;
  float* to = Scratch(&x_buffer_, rows * hidden_size_);
  x_ = to;
  for (const BatchCall& call : calls) {
    const int64_t n = call.rows * hidden_size_;
    if (call.dtype == DType::kF32) {
      std::copy_n(static_cast<const float*>(call.x), n, to);
    } else {
      kernels::Bf16ToF32Range(ctx_, static_cast<const Bf16*>(call.x), n, to);
    }
    to += n;
  }
}

// Counting sort of all pairs by (expert, call, row).
void ExpertBatch::PlacePairs(std::span<const BatchCall> calls) {
  std::fill(begin_.begin(), begin_.end(), 0);
  for (const BatchCall& call : calls) {
    for (const transport::WorkPair& pair : call.pairs) ++begin_[pair.expert + 1];
  }
  for (size_t e = 0; e < next_.size(); ++e) {
    begin_[e + 1] += begin_[e];
    next_[e] = begin_[e];
  }
  row_.resize(begin_.back());
  int32_t first_row = 0;
  for (const BatchCall& call : calls) {
    for (const transport::WorkPair& pair : call.pairs) {
      row_[next_[pair.expert]++] = first_row + static_cast<int32_t>(pair.row);
    }
    first_row += static_cast<int32_t>(call.rows);
  }
}

int64_t ExpertBatch::RunJobs(std::span<const BatchCall> calls) {
  const int64_t num_pairs = static_cast<int64_t>(row_.size());
  const bool direct = calls.size() == 1 &&
                      calls[0].dtype == DType::kF32;  // the order of places is the order of pairs
  out_ =
      direct ? static_cast<float*>(calls[0].out) : Scratch(&out_buffer_, num_pairs * hidden_size_);
  jobs_.clear();
  for (int32_t expert : found_ids_) {
    const int64_t m = begin_[expert + 1] - begin_[expert];
    if (m == 0) continue;
    jobs_.push_back({.w = &found_[expert]->weights,
                     .x = x_,
                     .ldx = hidden_size_,
                     .row = row_.data() + begin_[expert],
                     .m = m,
                     .out = out_ + begin_[expert] * hidden_size_,
                     .ldo = hidden_size_});
  }
  const int64_t started = metrics::MonotonicNs();
  kernels::GroupedFfn(ctx_, jobs_, act_, wire_,
                      Scratch(&ffn_buffer_, kernels::GroupedFfnScratch(jobs_)));
  const int64_t spent = metrics::MonotonicNs() - started;
  for (int32_t expert : found_ids_) {
    const int64_t m = begin_[expert + 1] - begin_[expert];
    found_[expert]->rows.fetch_add(m, std::memory_order_relaxed);
    found_[expert]->time_ns.fetch_add(spent * m / std::max<int64_t>(num_pairs, 1),
                                      std::memory_order_relaxed);
  }
  return spent;
}

// From places to each call's order: an expert's pairs of one call lie side by side in both.
void ExpertBatch::WriteOuts(std::span<const BatchCall> calls) {
  if (out_ == calls[0].out) return;
  if (calls.size() == 1) return WriteRun(calls[0], 0, calls[0].pairs.size(), 0);
  std::copy(begin_.begin(), begin_.end() - 1, next_.begin());
  for (const BatchCall& call : calls) {
    size_t end;
    for (size_t i = 0; i < call.pairs.size(); i = end) {
      end = EndOfExpert(call.pairs, i);
      int64_t& place = next_[call.pairs[i].expert];
      WriteRun(call, i, end - i, place);
      place += static_cast<int64_t>(end - i);
    }
  }
}

void ExpertBatch::WriteRun(const BatchCall& call, size_t first_pair, size_t count, int64_t place) {
  const float* from = out_ + place * hidden_size_;
  const int64_t n = static_cast<int64_t>(count) * hidden_size_;
  const int64_t to = static_cast<int64_t>(first_pair) * hidden_size_;
  if (call.dtype == DType::kF32) {
    std::copy_n(from, n, static_cast<float*>(call.out) + to);
  } else {
    kernels::F32ToBf16Range(ctx_, from, n, static_cast<Bf16*>(call.out) + to);
  }
}

}  // namespace atl::expert
