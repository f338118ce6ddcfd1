// Which rows of which sequences make the next step: continuous batching with chunked prefill.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "attention_service/engine_options.h"
#include "attention_service/latent_cache.h"
#include "attention_service/model_runner.h"
#include "attention_service/sequence.h"

namespace atl::attention {

// One step: rows in the order of their sequences, and the sequences themselves.
struct Step {
  struct Part {
    Sequence* sequence = nullptr;
    int64_t first_row = 0;
    int64_t num_rows = 0;
    int64_t num_drafts = 0;  // of these, the last so many hold guesses of tokens not sampled yet
  };
  std::vector<StepRow> rows;
  std::vector<Part> parts;
  std::vector<std::span<const BlockId>> block_tables;  // one per part
  uint64_t bias_version = 0;
};

// Owns the sequences. Decodes come first, so that a long prompt delays them by at most a step of
// max_step_tokens rows; prompts share what is left, oldest first. Drafts take rows and blocks that
// no decode needs, beside prompts at most half of those rows, and give the blocks back before the
// next step: they neither push out sequences nor delay a decode. When blocks run out, the newest
// sequence gives its own back and starts again later from prompt + generated (exact:
// docs/numerics.md). Thread-compatible: the engine's thread.
class Scheduler {
 public:
  Scheduler(const EngineOptions& options, LatentCache* cache);
  ~Scheduler();

  void Add(std::unique_ptr<Sequence> sequence);
  // Takes the sequence out, its blocks given back; null if it is not there.
  std::unique_ptr<Sequence> Remove(uint64_t sequence_id);
  std::vector<std::unique_ptr<Sequence>> RemoveAll();

  // Fills `step`; false if there is nothing to do. Sequences that can never run are handed to
  // `refuse`, out of the scheduler.
  bool Plan(Step* step, const std::function<void(std::unique_ptr<Sequence>, Status)>& refuse);

  // The step was computed and its tokens sampled: marks positions as computed and keeps full blocks
  // for later prompts. Rows of drafts that were not the token sampled before them are as if they
  // had not been: their positions are computed again. Uses up the drafts.
  void Computed(const Step& step);

  size_t num_running() const { return running_.size(); }
  size_t num_waiting() const { return waiting_.size(); }
  uint64_t preemptions() const { return preemptions_; }

 private:
  bool Admit(const std::function<void(std::unique_ptr<Sequence>, Status)>& refuse);
  // Blocks for positions below `positions`; preempts newer sequences if need be. False: not now.
  bool Reserve(Sequence* sequence, int64_t positions);
  bool PreemptNewest(const Sequence* keep);
  void GiveBackBlocks(Sequence* sequence);
  // Blocks that only drafts of the last step needed.
  void GiveBackDraftBlocks();
  // Gives the sequences that decode, or the others, their part of the step, oldest first: at most
  // `room` rows. Returns the room that is left.
  int64_t AddParts(bool decodes, int64_t room, Step* step);
  // Sequences that were preempted for another one's part fall out.
  void DropPreempted(Step* step) const;
  // Drafts of the sequence that `room` rows and the blocks that are free can take.
  int64_t RoomForDrafts(Sequence* sequence, int64_t room);
  // Rows and block tables of the step's parts, whose numbers of rows are settled.
  static void FillRows(Step* step);

  const EngineOptions options_;
  LatentCache* const cache_;
  std::vector<std::unique_ptr<Sequence>> running_;  // oldest first
  std::deque<std::unique_ptr<Sequence>> waiting_;   // oldest first
  uint64_t preemptions_ = 0;
};

}  // namespace atl::attention
