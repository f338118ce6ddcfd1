#include "attention_service/scheduler.h"

#include <algorithm>
#include <utility>

namespace atl::attention {

using kernels::kCacheBlock;

Scheduler::Scheduler(const EngineOptions& options, LatentCache* cache)
    : options_(options), cache_(cache) {}

Scheduler::~Scheduler() = default;

void Scheduler::Add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

std::unique_ptr<Sequence> Scheduler::Remove(uint64_t sequence_id) {
  const auto is_it = [&](const std::unique_ptr<Sequence>& s) {
    return s->sequence_id == sequence_id;
  };
  if (auto it = std::find_if(running_.begin(), running_.end(), is_it); it != running_.end()) {
    std::unique_ptr<Sequence> sequence = std::move(*it);
    running_.erase(it);
    GiveBackBlocks(sequence.get());
    return sequence;
  }
  if (auto it = std::find_if(waiting_.begin(), waiting_.end(), is_it); it != waiting_.end()) {
    std::unique_ptr<Sequence> sequence = std::move(*it);
    waiting_.erase(it);
    return sequence;
  }
  return nullptr;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::RemoveAll() {
  std::vector<std::unique_ptr<Sequence>> all;
  for (auto& sequence : running_) {
    GiveBackBlocks(sequence.get());
    all.push_back(std::move(sequence));
  }
  for (auto& sequence : waiting_) all.push_back(std::move(sequence));
  running_.clear();
  waiting_.clear();
  return all;
}

void Scheduler::GiveBackBlocks(Sequence* sequence) {
  // Last first, so that a prefix's head is the last to be given up.
  for (auto it = sequence->blocks.rbegin(); it != sequence->blocks.rend(); ++it)
    cache_->Release(*it);
  sequence->blocks.clear();
  sequence->kept_blocks = 0;
  sequence->computed = 0;
  sequence->drafts.clear();
}

bool Scheduler::PreemptNewest(const Sequence* keep) {
  if (running_.empty() || running_.back().get() == keep) return false;
  std::unique_ptr<Sequence> newest = std::move(running_.back());
  running_.pop_back();
  GiveBackBlocks(newest.get());
  newest->prompt_logprobs.clear();
  ++preemptions_;
  waiting_.push_front(std::move(newest));
  return true;
}

bool Scheduler::Reserve(Sequence* sequence, int64_t positions) {
  const int64_t needed = (positions + kCacheBlock - 1) / kCacheBlock;
  while (static_cast<int64_t>(sequence->blocks.size()) < needed) {
    StatusOr<BlockId> block = cache_->Acquire();
    if (block.ok()) {
      sequence->blocks.push_back(*block);
    } else if (!PreemptNewest(sequence)) {
      return false;
    }
  }
  return true;
}

// Moves the oldest waiting sequence to the running ones, with what the prefix cache has of it.
bool Scheduler::Admit(const std::function<void(std::unique_ptr<Sequence>, Status)>& refuse) {
  while (!waiting_.empty() && running_.size() < static_cast<size_t>(options_.max_running)) {
    Sequence* sequence = waiting_.front().get();
    const int64_t needed =
        (static_cast<int64_t>(sequence->ids.size()) + kCacheBlock - 1) / kCacheBlock;
    if (needed > cache_->num_blocks()) {
      std::unique_ptr<Sequence> too_long = std::move(waiting_.front());
      waiting_.pop_front();
      refuse(std::move(too_long),
             ResourceExhausted("%d positions need %d cache blocks, the node has %d",
                               static_cast<int64_t>(sequence->ids.size()), needed,
                               cache_->num_blocks()));
      continue;
    }
    // A first look at the room: a sequence that cannot get its first chunk would only push others
    // out.
    const CacheStats stats = cache_->stats();
    if (!running_.empty() &&
        stats.total - stats.used <
            std::min<int64_t>(needed, 1 + options_.prefill_chunk / kCacheBlock)) {
      return false;
    }
    // Prompt logprobs need every prompt position computed: keys could come from the cache, logits
    // cannot.
    if (options_.prefix_cache && !sequence->wants_prompt_logprobs()) {
      sequence->blocks = cache_->Match(sequence->ids, sequence->start.bias_version());
      sequence->kept_blocks = sequence->blocks.size();
      sequence->computed = sequence->kept_blocks * kCacheBlock;
    }
    if (!sequence->started) {
      sequence->cached_prompt_tokens =
          static_cast<uint32_t>(std::min<int64_t>(sequence->computed, sequence->prompt_size));
    }
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    return true;
  }
  return false;
}

int64_t Scheduler::RoomForDrafts(Sequence* sequence, int64_t room) {
  const int64_t size = sequence->ids.size();
  const int64_t wanted = std::clamp<int64_t>(room, 0, sequence->drafts.size());
  while (static_cast<int64_t>(sequence->blocks.size()) * kCacheBlock < size + wanted) {
    const StatusOr<BlockId> block = cache_->Acquire();
    if (!block.ok()) break;
    sequence->blocks.push_back(*block);
  }
  const int64_t covered = static_cast<int64_t>(sequence->blocks.size()) * kCacheBlock;
  return std::clamp<int64_t>(covered - size, 0, wanted);
}

void Scheduler::GiveBackDraftBlocks() {
  for (const auto& sequence : running_) {
    const int64_t size = sequence->ids.size();
    while ((static_cast<int64_t>(sequence->blocks.size()) - 1) * kCacheBlock >= size) {
      cache_->Release(sequence->blocks.back());
      sequence->blocks.pop_back();
    }
  }
}

int64_t Scheduler::AddParts(bool decodes, int64_t room, Step* step) {
  for (size_t i = 0; i < running_.size() && room > 0; ++i) {
    Sequence* sequence = running_[i].get();
    if ((sequence->remaining() == 1) != decodes) continue;
    if (sequence->start.bias_version() != step->bias_version) continue;
    const int64_t rows =
        std::min({sequence->remaining(), room, static_cast<int64_t>(options_.prefill_chunk)});
    // May preempt newer ones, decodes that have their part already among them.
    if (!Reserve(sequence, sequence->computed + rows)) continue;
    step->parts.push_back({.sequence = sequence, .num_rows = rows});
    room -= rows;
  }
  return room;
}

void Scheduler::DropPreempted(Step* step) const {
  std::erase_if(step->parts, [this](const Step::Part& part) {
    return std::none_of(running_.begin(), running_.end(),
                        [&](const auto& running) { return running.get() == part.sequence; });
  });
}

void Scheduler::FillRows(Step* step) {
  for (size_t p = 0; p < step->parts.size(); ++p) {
    Step::Part& part = step->parts[p];
    const Sequence& s = *part.sequence;
    const int64_t sure_rows = part.num_rows - part.num_drafts;
    part.first_row = static_cast<int64_t>(step->rows.size());
    for (int64_t i = 0; i < part.num_rows; ++i) {
      const int64_t position = s.computed + i;
      const uint32_t id = i < sure_rows ? s.ids[position] : s.drafts[i - sure_rows];
      step->rows.push_back({id, static_cast<int32_t>(position), static_cast<int32_t>(p)});
    }
    step->block_tables.push_back(s.blocks);
  }
}

bool Scheduler::Plan(Step* step,
                     const std::function<void(std::unique_ptr<Sequence>, Status)>& refuse) {
  step->rows.clear();
  step->parts.clear();
  step->block_tables.clear();
  GiveBackDraftBlocks();
  while (Admit(refuse)) {
  }
  if (running_.empty()) return false;
  // A step is of one bias version: the oldest sequence's. The others' turn comes when it has ended
  // or waits.
  step->bias_version = running_.front()->start.bias_version();
  const int64_t beside_decodes = AddParts(/*decodes=*/true, options_.max_step_tokens, step);
  int64_t drafts = 0;
  for (const Step::Part& part : step->parts)
    drafts += static_cast<int64_t>(part.sequence->drafts.size());
  const int64_t for_drafts = std::min(drafts, beside_decodes / 2);
  int64_t room = for_drafts + AddParts(/*decodes=*/false, beside_decodes - for_drafts, step);
  DropPreempted(step);
  for (Step::Part& part : step->parts) {
    if (part.sequence->remaining() == 1) part.num_drafts = RoomForDrafts(part.sequence, room);
    room -= part.num_drafts;
    part.num_rows += part.num_drafts;
  }
  FillRows(step);
  return !step->rows.empty();
}

void Scheduler::Computed(const Step& step) {
  for (const Step::Part& part : step.parts) {
    Sequence* s = part.sequence;
    s->drafts.clear();
    if (part.num_drafts > 0) {
      s->computed = static_cast<int64_t>(s->ids.size()) - 1;  // the last id is not yet computed
    } else {
      s->computed += part.num_rows;
    }
    if (!options_.prefix_cache) continue;
    while ((s->kept_blocks + 1) * kCacheBlock <= s->computed) {
      const int64_t i = s->kept_blocks;
      const BlockId parent = i == 0 ? -1 : s->blocks[i - 1];
      const std::span<const uint32_t, kCacheBlock> ids(s->ids.data() + i * kCacheBlock,
                                                       kCacheBlock);
      s->blocks[i] = cache_->Keep(s->blocks[i], parent, ids, s->start.bias_version());
      ++s->kept_blocks;
    }
  }
}

}  // namespace atl::attention
