#include "attention_service/drafter.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/log.h"

namespace atl::attention {
namespace {

// Of all expert calls for one step's guesses: tokens wait for them, so no longer than a hiccup.
constexpr absl::Duration kPatience = absl::Seconds(2);
// After experts failed to answer in that time; twice as long each time in a row.
constexpr absl::Duration kFirstPause = absl::Minutes(1);
constexpr absl::Duration kLongestPause = absl::Hours(1);

// The MTP layer's row of a computed position: it holds the token after it.
StepRow MtpRow(const Sequence& s, int64_t position, size_t part_idx) {
  return {s.ids[position + 1], static_cast<int32_t>(position), static_cast<int32_t>(part_idx)};
}

}  // namespace

Drafter::Drafter(const kernels::KernelContext& ctx, const ModelWeights* weights,
                 ModelRunner* runner, const EngineOptions& options)
    : ctx_(ctx),
      weights_(weights),
      runner_(runner),
      options_(options),
      policy_(options.speculate),
      pause_(kFirstPause) {
  ATL_CHECK(!weights->mtp.empty());
}

// A step takes one token more than it has right guesses.
int64_t Drafter::MostDrafts(const Sequence& s) const {
  const int64_t end = std::min<int64_t>(options_.context_length,
                                        static_cast<int64_t>(s.prompt_size) + s.start.max_tokens());
  return end - static_cast<int64_t>(s.ids.size()) - 1;
}

bool Drafter::Decodes(const Step::Part& part) const {
  return part.sequence != nullptr && part.sequence->remaining() == 1;
}

void Drafter::Draft(const Step& step, const float* hidden, absl::Duration took) {
  depth_ = ChooseDepth(step, took);
  const absl::Time began = absl::Now();
  Collect(step, hidden, depth_);
  if (!feed_rows_.empty()) runner_->FeedMtp(feed_rows_, step.block_tables, feed_states_.data());
  Extend(step, depth_);
  guessing_time_ = absl::Now() - began;
  if (!hook_) return;
  for (const Step::Part& part : step.parts) {
    if (Decodes(part) && !part.sequence->drafts.empty())
      hook_(*part.sequence, &part.sequence->drafts);
  }
}

int Drafter::ChooseDepth(const Step& step, absl::Duration took) {
  if (std::all_of(step.parts.begin(), step.parts.end(),
                  [](const auto& part) { return part.num_rows - part.num_drafts == 1; })) {
    policy_.Took(static_cast<int64_t>(step.parts.size()), depth_,
                 absl::ToDoubleSeconds(guessing_time_ + took));
  }
  if (absl::Now() < paused_until_) return 0;
  if (options_.speculate_always) return options_.speculate;
  return policy_.Depth(std::count_if(step.parts.begin(), step.parts.end(),
                                     [this](const auto& part) { return Decodes(part); }));
}

void Drafter::FeedFinished(const Step& step, const float* hidden) {
  const int64_t d = weights_->config.hidden_size;
  feed_rows_.clear();
  feed_states_.clear();
  for (size_t i = 0; i < step.parts.size(); ++i) {
    const Step::Part& part = step.parts[i];
    const Sequence& s = *part.sequence;
    if (!s.finished) continue;
    // The last computed position may have no token after it: nothing was asked for.
    const int64_t first = step.rows[part.first_row].position;
    const int64_t end = std::min(
        {s.kept_blocks * kernels::kCacheBlock, s.computed, static_cast<int64_t>(s.ids.size()) - 1});
    for (int64_t position = first; position < end; ++position) {
      feed_rows_.push_back(MtpRow(s, position, i));
      const float* state = hidden + (part.first_row + position - first) * d;
      feed_states_.insert(feed_states_.end(), state, state + d);
    }
  }
  if (!feed_rows_.empty()) runner_->FeedMtp(feed_rows_, step.block_tables, feed_states_.data());
}

// Every computed position has its next token by now. The last ones of sequences that are to be
// guessed for go through the whole layer, of the others only the latents are wanted.
void Drafter::Collect(const Step& step, const float* hidden, int depth) {
  const int64_t d = weights_->config.hidden_size;
  feed_rows_.clear();
  feed_states_.clear();
  heads_.clear();
  head_states_.clear();
  for (size_t i = 0; i < step.parts.size(); ++i) {
    const Step::Part& part = step.parts[i];
    Sequence* s = part.sequence;
    if (s == nullptr) continue;
    const int64_t most = Decodes(part) ? std::min<int64_t>(depth, MostDrafts(*s)) : 0;
    const int64_t first = step.rows[part.first_row].position;
    for (int64_t position = first; position < s->computed; ++position) {
      const StepRow row = MtpRow(*s, position, i);
      const float* state = hidden + (part.first_row + position - first) * d;
      const bool head = most > 0 && position + 1 == s->computed;
      if (head) {
        heads_.push_back({s, most, row});
      } else {
        feed_rows_.push_back(row);
      }
      auto& states = head ? head_states_ : feed_states_;
      states.insert(states.end(), state, state + d);
    }
  }
}

void Drafter::Extend(const Step& step, int depth) {
  const int64_t d = weights_->config.hidden_size;
  const absl::Time deadline = absl::Now() + kPatience;
  for (int j = 0; j < depth && !heads_.empty(); ++j) {
    head_rows_.clear();
    for (const Head& head : heads_) head_rows_.push_back(head.row);
    next_states_.resize(heads_.size() * d);
    const Status status = runner_->RunMtp(head_rows_, step.block_tables, step.bias_version,
                                          head_states_.data(), deadline, next_states_.data());
    if (!status.ok()) return Pause(status);
    pause_ = kFirstPause;
    SampleHeads(j);
    // Those that go on: the guess takes the place of the token, the layer's state that of h.
    size_t kept = 0;
    head_states_.clear();
    for (size_t i = 0; i < heads_.size(); ++i) {
      Head head = heads_[i];
      head.row = {head.sequence->drafts.back(), head.row.position + 1, head.row.seq_idx};
      const int64_t covered = head.sequence->blocks.size() * kernels::kCacheBlock;
      if (j + 1 >= head.most || head.row.position >= covered) continue;
      heads_[kept++] = head;
      head_states_.insert(head_states_.end(), next_states_.begin() + i * d,
                          next_states_.begin() + (i + 1) * d);
    }
    heads_.resize(kept);
  }
}

// By the same rule and the same draw as the token itself will be, so that they agree as often as
// the two models do. (Penalties do not count the guesses before it.)
void Drafter::SampleHeads(int64_t position_after_ids) {
  const int64_t vocab = weights_->config.vocab_size;
  logits_.resize(heads_.size() * vocab);
  runner_->Logits(next_states_.data(), heads_.size(), logits_.data());
  for (size_t i = 0; i < heads_.size(); ++i) {
    Sequence* s = heads_[i].sequence;
    const std::span<float> logits(logits_.data() + i * vocab, vocab);
    s->drafts.push_back(s->sampler.Sample(ctx_, logits, s->ids.size() + position_after_ids));
  }
}

void Drafter::Pause(const Status& why) {
  LogWarning("no speculative decoding for %s: %s", absl::FormatDuration(pause_), why.ToString());
  paused_until_ = absl::Now() + pause_;
  pause_ = std::min(2 * pause_, kLongestPause);
}

}  // namespace atl::attention
