#include "attention_service/draft_policy.h"

#include <algorithm>

namespace atl::attention {
namespace {

constexpr double kWeight = 1.0 / 64;  // of one guess in the average
constexpr double kWorthwhile = 0.5;   // least chance of being right that is worth a row
constexpr uint64_t kStepsBetweenProbes = 64;

}  // namespace

int DraftPolicy::Depth(int64_t num_sequences) {
  if (num_sequences == 0) return 0;
  const int64_t room = kMaxRows / num_sequences - 1;
  const int most = static_cast<int>(std::clamp<int64_t>(room, 0, max_depth_));
  if (most == 0) return 0;
  int depth = 0;
  for (double chance = acceptance_; depth < most && chance >= kWorthwhile; chance *= acceptance_)
    ++depth;
  if (depth > 0) return depth;
  return ++idle_steps_ % kStepsBetweenProbes == 0 ? 1 : 0;
}

void DraftPolicy::Record(int64_t right, bool wrong) {
  for (int64_t i = 0; i < right; ++i) acceptance_ += kWeight * (1 - acceptance_);
  if (wrong) acceptance_ -= kWeight * acceptance_;
}

}  // namespace atl::attention
