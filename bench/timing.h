// Clocks and medians of the benchmarks.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace atl::bench {

inline double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// REQUIRES: not empty.
inline double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace atl::bench
