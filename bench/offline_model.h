// A checkpoint in this process and room for some sequences: steps of the model by hand, without an
// engine around them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "bench/product_roof.h"
#include "local/local_stack.h"

namespace atl::bench {

// Thread-compatible.
class OfflineModel {
 public:
  // Room for `positions` of each of `sequences`.
  static StatusOr<std::unique_ptr<OfflineModel>> Open(const local::LocalStackOptions& options,
                                                      int64_t sequences, int64_t positions);

  // Computes rows (StepRow::seq_idx below the number of sequences) and the logits [wanted, V] of
  // the rows with these indices. Positions may be computed again.
  Status Step(std::span<const attention::StepRow> rows, std::span<const int32_t> wanted);
  std::span<const float> logits() const { return logits_; }
  uint32_t BestToken(int64_t i) const;  // the most likely id of the i-th wanted row
  // Some id, the same in every run.
  uint32_t PromptToken(int64_t sequence, int64_t position) const;

  // Bytes of packed weights that a step of one row reads; of many rows: at least.
  double ActiveBytes() const { return active_bytes_; }
  // Multiplications and additions for one row at `position`: weights, and absorbed attention.
  double Ops(int64_t position) const;
  // The arithmetic roof that binds steps of many rows: of the instruction that its products use;
  // none for portable ones.
  std::optional<Arithmetic> Roof() const;
  // Billions of operations a second of it, measured now on all threads; 0 where there is none.
  double RoofGops() const;

  local::LocalStack& stack() { return *stack_; }

 private:
  OfflineModel() = default;
  void Count(const dispatch::GateWeights& gates);

  kernels::Isa isa_ = kernels::Isa::kPortable;
  std::unique_ptr<local::LocalStack> stack_;
  std::unique_ptr<attention::LatentCache> cache_;
  std::unique_ptr<attention::ModelRunner> runner_;
  std::vector<std::vector<attention::BlockId>> blocks_;
  std::vector<std::span<const attention::BlockId>> block_tables_;
  std::vector<float> hidden_, logits_;
  double active_bytes_ = 0, active_weights_ = 0;
};

}  // namespace atl::bench
