// How many tokens to guess ahead: as many as pay.
#pragma once

#include <array>
#include <cstdint>

namespace atl::attention {

// Guesses cost time: the MTP layer's, and that of rows which may be thrown away. How much depends
// on model, machine and batch (two rows read the same attention weights but other experts), so it
// is measured, as is how often guesses are right. What this decides never changes a token
// (docs/numerics.md). Thread-compatible.
class DraftPolicy {
 public:
  // The sequences that decode never have more rows than these in a step, guesses included: they do
  // not pay there, unmeasured. (Rows of prompts in the same step do not count.)
  static constexpr int64_t kMaxRows = 32;

  explicit DraftPolicy(int max_depth) : max_depth_(max_depth) {}

  // Guesses a sequence for the next step, which has `num_sequences` that decode: the depth of most
  // tokens a second as far as is known. Once in a while one more or one less, to know.
  int Depth(int64_t num_sequences);

  // Of a sequence's guesses the first `right` were right; `wrong`: and the next one was not.
  void Record(int64_t right, bool wrong);
  // A step of nothing but `num_sequences` decodes with `depth` guesses each took so long, the
  // guessing included.
  void Took(int64_t num_sequences, int depth, double seconds);

  // Moving average of how often a guess is right whose predecessors were.
  double acceptance() const { return acceptance_; }

 private:
  static constexpr int kMaxDepth = 8;
  struct Cost {
    double seconds = 0;  // moving average a sequence; 0: never measured
    uint64_t asked = 0;  // step that last had this depth; 0: none
  };
  using Costs = std::array<Cost, kMaxDepth + 1>;

  double Speed(const Costs& costs, int depth) const;

  const int max_depth_;
  double acceptance_ = 0.8;     // to begin with: what DeepSeek reports of V3's first MTP layer
  std::array<Costs, 6> costs_;  // of 1, 2-3, 4-7, ... sequences
  uint64_t step_ = 0;
};

}  // namespace atl::attention
