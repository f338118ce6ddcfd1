// Speculative decoding: guesses the tokens after a sequence's last one with the checkpoint's MTP
// layer. The next step computes them along, and takes as many as turn out to be what is sampled.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "attention_service/draft_policy.h"
#include "attention_service/engine_options.h"
#include "attention_service/model_runner.h"
#include "attention_service/scheduler.h"

namespace atl::attention {

// No token or logprob depends on what is guessed: a guess is taken only where the main model's own
// logits, computed from the very same ids, gave that token. So the MTP layer's latents may be of
// poor quality, and are in two places: at the last position of a block found in the prefix cache
// (that position's latent holds the token after it, which may be another sequence's), and after a
// call to the experts that failed. Then guesses are worse, nothing else.
// Source: DeepSeek-V3 report, 2.2 (the module), used again on its own state for further tokens.
// Thread-compatible: the engine's thread.
class Drafter {
 public:
  // Sees each sequence's guesses, and may change them.
  using Hook = std::function<void(const Sequence& sequence, std::vector<uint32_t>* drafts)>;

  // REQUIRES: weights with their MTP layer. All must outlive it.
  Drafter(const kernels::KernelContext& ctx, const ModelWeights* weights, ModelRunner* runner,
          const EngineOptions& options);

  // For the sequences of `step` that have finished, before they give their blocks back, with
  // arguments as Draft's: later prompts may find those blocks in the prefix cache, so the MTP
  // layer's latents belong in them as well.
  void FeedFinished(const Step& step, const float* hidden);

  // `step` was computed and its tokens taken (Scheduler::Computed); hidden [rows, D]: the state
  // after model.norm of all its rows. Parts without a sequence have ended. Brings the MTP layer's
  // latents up to each sequence's last computed position, and fills in `drafts` of those that
  // decode. `took`: the step, without Draft. Never fails: without experts for it guessing pauses,
  // which is logged.
  void Draft(const Step& step, const float* hidden, absl::Duration took);

  // Of a part's guesses the first `right` were right; `wrong`: and the next one was not.
  void Record(int64_t right, bool wrong) { policy_.Record(right, wrong); }

  void SetHookForTest(Hook hook) { hook_ = std::move(hook); }

 private:
  // A sequence whose tokens are being guessed, and the row that gives the next one.
  struct Head {
    Sequence* sequence = nullptr;
    int64_t most = 0;  // guesses that could be of use
    StepRow row;
  };

  int ChooseDepth(const Step& step, absl::Duration took);
  int64_t MostDrafts(const Sequence& s) const;
  bool Decodes(const Step::Part& part) const;
  void Collect(const Step& step, const float* hidden, int depth);
  void Extend(const Step& step, int depth);
  void SampleHeads(int64_t position_after_ids);
  void Pause(const Status& why);

  const kernels::KernelContext ctx_;
  const ModelWeights* const weights_;
  ModelRunner* const runner_;
  const EngineOptions options_;
  DraftPolicy policy_;
  Hook hook_;
  int depth_ = 0;                 // of the guesses made last
  absl::Duration guessing_time_;  // that they took
  absl::Time paused_until_ = absl::InfinitePast();
  absl::Duration pause_;

  std::vector<StepRow> feed_rows_;  // known tokens: only their latents are needed
  std::vector<float> feed_states_;
  std::vector<Head> heads_;
  std::vector<StepRow> head_rows_;
  std::vector<float> head_states_;  // [heads, D] that the next guess goes out from
  std::vector<float> next_states_;
  std::vector<float> logits_;
};

}  // namespace atl::attention
