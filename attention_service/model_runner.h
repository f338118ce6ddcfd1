// One step through all layers: rows in, hidden states out. Attention and dense layers here, experts
// through the fabric.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "attention_service/latent_cache.h"
#include "attention_service/model_weights.h"
#include "base/status.h"
#include "router_service/dispatch/expert_fabric.h"

namespace atl::attention {

// One token to compute: at `position` of sequence `seq_idx` (an index into the step's block
// tables).
struct StepRow {
  uint32_t token = 0;
  int32_t position = 0;
  int32_t seq_idx = 0;
  bool expanded =
      false;  // attends in the expanded form: a prompt's token where the profile says so
};

struct AttentionPiece;

// Thread-compatible: called by the engine's thread, which owns the fabric's loop.
class ModelRunner {
 public:
  // All must outlive it. micro_batches 2: steps of at least 2 * min_micro_batch_rows rows are cut
  // in two, so that one half is in attention while the other is at the experts.
  ModelRunner(const kernels::KernelContext& ctx, const ModelWeights* weights, LatentCache* cache,
              dispatch::ExpertFabric* fabric, int micro_batches, int64_t min_micro_batch_rows);
  ~ModelRunner();

  // Computes `rows` (of one sequence: ascending positions, each after those already in the cache)
  // and writes their latents to the sequences' blocks, which must cover their positions.
  //   hidden [wanted.size(), D] float32: for each row index in `wanted`, the state after
  //   model.norm.
  // On error nothing that the rows would have computed may be used. Errors: ExpertFabric::Wait's.
  Status Run(std::span<const StepRow> rows, std::span<const std::span<const BlockId>> block_tables,
             uint64_t bias_version, std::span<const int32_t> wanted, float* hidden);

  // logits [n, V] of hidden [n, D] as Run gives it.
  void Logits(const float* hidden, int64_t n, float* logits);

  // The first MTP layer: row i holds token t_{i+1} at cache position i and previous [rows, D], the
  // main model's state after model.norm at i. state [rows, D] is the layer's own after its final
  // norm: logits (see Logits) of it predict t_{i+2}, and it is `previous` where the layer is used
  // again for t_{i+3}. REQUIRES weights loaded with MTP, cache with its layer. Errors:
  // ExpertFabric::Wait's; DeadlineExceeded if the experts have not answered by `deadline`.
  Status RunMtp(std::span<const StepRow> rows,
                std::span<const std::span<const BlockId>> block_tables, uint64_t bias_version,
                const float* previous, absl::Time deadline, float* state);
  // The part of RunMtp that later rows attend to: writes the rows' latents, asks no expert.
  void FeedMtp(std::span<const StepRow> rows,
               std::span<const std::span<const BlockId>> block_tables, const float* previous);

  uint64_t dispatched_rows() const { return dispatched_rows_; }
  // Time spent in the fabric so far: handing rows over and waiting.
  int64_t experts_ns() const { return experts_ns_; }

  // Tests: the residual stream [rows, D] that enters each layer, and what leaves the last (layer
  // L).
  void SetHiddenHookForTest(
      std::function<void(int64_t layer, const float* hidden, int64_t rows)> hook);

 private:
  struct MicroBatch;

  void Prepare(MicroBatch* mb, std::span<const StepRow> rows);
  void Attention(int64_t layer, std::span<const std::span<const BlockId>> block_tables,
                 MicroBatch* mb);
  void ProjectQueries(const LayerWeights& w, MicroBatch* mb);
  void AttendAbsorbed(const LayerWeights& w, const AttentionPiece& piece, MicroBatch* mb);
  void AttendExpanded(const LayerWeights& w, const AttentionPiece& piece, MicroBatch* mb);
  void StoreLatents(int64_t layer, std::span<const std::span<const BlockId>> block_tables,
                    MicroBatch* mb);
  // The layer's second half: dense at once; experts are asked for, and FinishFfn adds their answer.
  void StartFfn(int64_t layer, uint64_t bias_version, absl::Time deadline, MicroBatch* mb);
  Status FinishFfn(MicroBatch* mb);
  Status RunLayers(int64_t begin, int64_t end,
                   std::span<const std::span<const BlockId>> block_tables, uint64_t bias_version,
                   absl::Time deadline, int num_micro_batches);
  // mb->hidden: what enters the MTP layer.
  void EnterMtp(std::span<const StepRow> rows, const float* previous, MicroBatch* mb);

  const kernels::KernelContext ctx_;
  const ModelWeights* const weights_;
  LatentCache* const cache_;
  dispatch::ExpertFabric* const fabric_;
  const int max_micro_batches_;
  const int64_t min_micro_batch_rows_;
  const kernels::Rounding act_;
  const kernels::MlaShape shape_;
  std::vector<std::unique_ptr<MicroBatch>> micro_batches_;
  uint64_t dispatched_rows_ = 0;
  int64_t experts_ns_ = 0;
  std::function<void(int64_t, const float*, int64_t)> hidden_hook_;
};

// The shape that cache and kernels need, from the model and the profile.
kernels::MlaShape CacheShape(const model::ModelConfig& config, const model::NumericProfile& profile,
                             float softmax_scale);

}  // namespace atl::attention
