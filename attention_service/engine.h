// An attention node's core: takes sequences, runs steps, hands out tokens. One thread, no gRPC.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "attention_service/client/attention_backend.h"
#include "attention_service/drafter.h"
#include "attention_service/engine_options.h"
#include "attention_service/latent_cache.h"
#include "attention_service/model_runner.h"
#include "attention_service/scheduler.h"
#include "attention_service/step_histograms.h"
#include "transport/event_loop.h"

namespace atl::attention {

// Readable from any thread; as of the last step.
struct EngineStats {
  std::atomic<uint32_t> running{0}, waiting{0};
  std::atomic<uint32_t> blocks_total{0}, blocks_used{0}, blocks_cached{0};
  std::atomic<uint64_t> block_bytes{0};  // of a block, all layers
  std::atomic<uint64_t> steps{0}, prefill_tokens{0}, decode_tokens{0}, preemptions{0},
      cached_tokens{0};
  std::atomic<uint64_t> dispatched_rows{0};
  // Guesses computed along with steps, and those of them that were the token sampled.
  std::atomic<uint64_t> drafted_tokens{0}, accepted_tokens{0};
  std::atomic<uint64_t> prompt_tokens{0};  // of sequences that have begun
  StepHistograms step;
};

// Options with what was left open filled in from the model. InvalidArgument if the cache cannot
// hold one sequence of the whole context (both figures named), or to speculate without an MTP
// layer.
StatusOr<EngineOptions> ResolveEngineOptions(EngineOptions options,
                                             const model::ModelConfig& config,
                                             const model::NumericProfile& profile);

// Thread-safe but for RunUntilStopped, which is its thread.
class Engine : public AttentionBackend {
 public:
  // `options` as resolved; weights with the MTP layer if they speculate. `loop` is the fabric's;
  // all must outlive the engine. name: what the node is called in errors.
  Engine(transport::EventLoop* loop, const kernels::KernelContext& ctx, const ModelWeights* weights,
         dispatch::ExpertFabric* fabric, const EngineOptions& options, std::string revision);
  ~Engine() override;

  // AttentionBackend: errors of attention.proto come through the observer, never from here.
  std::unique_ptr<Run> Start(const atollpb::v1::RunStart& start, RunObserver* observer) override;

  // Steps until Stop; then ends every sequence with UNAVAILABLE.
  void RunUntilStopped();
  void Stop();
  // New sequences are refused with UNAVAILABLE; those here go on.
  void StopAdmitting();
  // Sequences here, running or waiting.
  uint32_t num_sequences() const { return num_sequences_.load(); }

  const EngineStats& stats() const { return stats_; }
  // Before RunUntilStopped; see Drafter. REQUIRES: options that speculate.
  void SetDraftHookForTest(Drafter::Hook hook) { drafter_->SetHookForTest(std::move(hook)); }
  // Hashes of kept prefixes (client/prefix_hash.h), newest first; refreshed a few times a second.
  std::vector<uint64_t> KeptPrefixes() const;

 private:
  class LocalRun;
  struct Message {
    std::unique_ptr<Sequence> start;  // or
    uint64_t cancel = 0;
  };

  Status Validate(const atollpb::v1::RunStart& start) const;
  void Cancel(uint64_t sequence_id);
  void Send(Message message);
  void TakeMessages();
  // Every sequence of the step under way has been cancelled.
  bool StepIsAbandoned();
  bool StepOnce();
  void PlanLogits();
  void FinishStep();
  void TakeRow(int32_t row_idx, std::span<float> logits);
  void TakePromptLogits(Sequence* s, int64_t position, std::span<const float> logits);
  void TakeToken(Sequence* s, std::span<float> logits);
  // States [count, D] of the logit rows from `begin` on.
  const float* LogitStates(int64_t begin, int64_t count);
  // Sends what the sequence's response has gathered, if anything.
  void Respond(Sequence* s);
  void End(std::unique_ptr<Sequence> sequence, const Status& status);
  void PublishStats();

  transport::EventLoop* const loop_;
  dispatch::ExpertFabric* const fabric_;
  const kernels::KernelContext ctx_;
  const ModelWeights* const weights_;
  const EngineOptions options_;
  const std::string revision_;
  const std::string numerics_id_;

  // The engine's thread alone.
  LatentCache cache_;
  ModelRunner runner_;
  Scheduler scheduler_;
  std::unique_ptr<Drafter> drafter_;  // null: no speculation
  Step step_;
  std::vector<int32_t> logit_rows_;   // rows of the step whose logits are wanted
  std::vector<int32_t> hidden_rows_;  // and those whose states are: with a drafter, all
  std::vector<float> hidden_;         // [hidden rows, D]
  std::vector<float> logit_states_;
  std::vector<float> logits_;
  std::unordered_map<std::string, std::pair<uint32_t, uint64_t>>
      runs_;  // request id -> run number, sequence
  absl::Time published_ = absl::InfinitePast();

  std::atomic<bool> stop_{false};
  std::atomic<bool> admitting_{true};
  std::atomic<uint32_t> num_sequences_{0};
  std::atomic<uint64_t> next_id_{1};
  EngineStats stats_;

  mutable absl::Mutex mu_;
  std::vector<Message> inbox_ ABSL_GUARDED_BY(mu_);
  std::vector<uint64_t> kept_prefixes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace atl::attention
