// How many tokens to guess ahead: as many as pay.
#pragma once

#include <cstdint>

namespace atl::attention {

// Guesses cost rows: they pay while they are mostly right, and while the step is small enough for
// its time to be that of reading weights. What it decides never changes a token (docs/numerics.md).
// Thread-compatible.
class DraftPolicy {
 public:
  // Steps of more rows, guesses included, are not made larger by guesses.
  static constexpr int64_t kMaxRows = 16;

  explicit DraftPolicy(int max_depth) : max_depth_(max_depth) {}

  // Guesses a sequence for the next step, which has `num_sequences` that decode. While guesses do
  // not pay, one in a while is made all the same, to notice when they would.
  int Depth(int64_t num_sequences);

  // Of a sequence's guesses the first `right` were right; `wrong`: and the next one was not.
  void Record(int64_t right, bool wrong);

  // Moving average of how often a guess is right whose predecessors were.
  double acceptance() const { return acceptance_; }

 private:
  const int max_depth_;
  double acceptance_ = 0.8;  // to begin with: published figures for V3's first MTP layer
  uint64_t idle_steps_ = 0;
};

}  // namespace atl::attention
