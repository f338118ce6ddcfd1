#include "attention_service/draft_policy.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace atl::attention {
namespace {

constexpr double kGuessWeight = 1.0 / 64;  // of one guess in the average
constexpr double kTimeWeight = 1.0 / 8;    // of one step's time
// A step that was held up counts no more than so many times the average.
constexpr double kOutlier = 2;
constexpr uint64_t kStepsBetweenProbes = 64;

// Numbers of sequences alike enough to share their costs.
int Bucket(int64_t num_sequences) {
  return std::bit_width(static_cast<uint64_t>(num_sequences)) - 1;
}

}  // namespace

// Tokens of a step, expected, by its cost. Unknown costs promise nothing.
double DraftPolicy::Speed(const Costs& costs, int depth) const {
  if (costs[depth].seconds == 0) return 0;
  double tokens = 0, chance = 1;
  for (int i = 0; i <= depth; ++i, chance *= acceptance_) tokens += chance;
  return tokens / costs[depth].seconds;
}

int DraftPolicy::Depth(int64_t num_sequences) {
  if (num_sequences == 0) return 0;
  const int64_t room = kMaxRows / num_sequences - 1;
  const int most = static_cast<int>(std::clamp<int64_t>(room, 0, max_depth_));
  if (most == 0) return 0;
  ++step_;
  Costs& costs = costs_[Bucket(num_sequences)];
  int best = 0;
  for (int depth = 1; depth <= most; ++depth) {
    if (Speed(costs, depth) > Speed(costs, best)) best = depth;
  }
  for (const int depth : {best + 1, best - 1}) {
    if (depth < 0 || depth > most) continue;
    const Cost& cost = costs[depth];
    if (cost.asked != 0 && step_ - cost.asked < kStepsBetweenProbes) continue;
    best = depth;
    break;
  }
  costs[best].asked = step_;
  return best;
}

void DraftPolicy::Record(int64_t right, bool wrong) {
  for (int64_t i = 0; i < right; ++i) acceptance_ += kGuessWeight * (1 - acceptance_);
  if (wrong) acceptance_ -= kGuessWeight * acceptance_;
}

void DraftPolicy::Took(int64_t num_sequences, int depth, double seconds) {
  ATL_CHECK(depth >= 0 && depth <= kMaxDepth);
  if (num_sequences <= 0 || num_sequences > kMaxRows) return;
  double& average = costs_[Bucket(num_sequences)][depth].seconds;
  const double sample = std::max(seconds, 1e-9) / static_cast<double>(num_sequences);
  average = average == 0 ? sample
                         : average + kTimeWeight * (std::min(sample, kOutlier * average) - average);
}

}  // namespace atl::attention
