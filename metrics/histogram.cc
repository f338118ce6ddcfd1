#include "metrics/histogram.h"

#include <algorithm>
#include <numeric>

namespace atl::metrics {

uint64_t Distribution::count() const {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

void Histogram::Record(double value) noexcept {
  if (!(value > 0)) value = 0;
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Distribution Histogram::Read() const {
  Distribution all{.bounds = bounds_, .sum = sum_.load(std::memory_order_relaxed)};
  all.counts.reserve(counts_.size());
  for (const std::atomic<uint64_t>& count : counts_)
    all.counts.push_back(count.load(std::memory_order_relaxed));
  return all;
}

}  // namespace atl::metrics
