// The arithmetic of an expert node: calls of one layer merged by expert into one grouped
// feed-forward.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/dtype.h"
#include "expert_service/expert_store.h"
#include "kernels/context.h"
#include "model/config.h"
#include "model/profile.h"
#include "transport/frame.h"

namespace atl::expert {

// One caller's rows, and where its outs go.
struct BatchCall {
  DType dtype = DType::kF32;  // of x and out: the wire type, or kF32 with values rounded to it
  int64_t rows = 0;
  const void* x = nullptr;                     // [rows, D]
  std::span<const transport::WorkPair> pairs;  // ascending by (expert, row)
  void* out = nullptr;                         // [pairs, D]
};

// Keeps its scratch from batch to batch. Thread-compatible.
class ExpertBatch {
 public:
  ExpertBatch(kernels::KernelContext ctx, const model::ModelConfig& config,
              const model::NumericProfile& profile, ExpertStore* store);

  // OK if every expert that `pairs` names is held; NotFound says which is not. What was found stays
  // alive until Clear.
  Status Find(int32_t layer, std::span<const transport::WorkPair> pairs);
  // Returns the nanoseconds that the experts' products took. REQUIRES Find was OK for the pairs of
  // every call.
  int64_t Compute(std::span<const BatchCall> calls);
  // Forgets the experts found: the next batch may be of another layer.
  void Clear();

 private:
  void WidenRows(std::span<const BatchCall> calls);
  void PlacePairs(std::span<const BatchCall> calls);
  int64_t RunJobs(std::span<const BatchCall> calls);
  void WriteOuts(std::span<const BatchCall> calls);
  // `count` outs from `place` on to the call's pairs from `first_pair` on.
  void WriteRun(const BatchCall& call, size_t first_pair, size_t count, int64_t place);
  float* Scratch(Buffer* buffer, int64_t floats);

  const kernels::KernelContext ctx_;
  const int64_t hidden_size_;
  const kernels::Rounding act_;
  const kernels::Rounding wire_;
  ExpertStore* const store_;

  std::vector<std::shared_ptr<HeldExpert>> found_;  // [expert ids], null: not asked for
  std::vector<int32_t> found_ids_;
  const float* x_ = nullptr;    // [rows of all calls, D]
  float* out_ = nullptr;        // [pairs of all calls, D], by expert, then call, then row
  std::vector<int64_t> begin_;  // [expert ids + 1] first place of each expert's pairs in `out_`
  std::vector<int64_t> next_;   // [expert ids] while places are given out
  std::vector<int32_t> row_;    // [pairs] row of `x_` at each place
  std::vector<kernels::FfnJob> jobs_;
  Buffer x_buffer_, out_buffer_, ffn_buffer_;
};

}  // namespace atl::expert
