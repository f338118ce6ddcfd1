// What a dispatcher's calls took, for metrics.
#pragma once

#include <atomic>
#include <cstdint>

#include "metrics/histogram.h"

namespace atl::dispatch {

// Written by the dispatcher's thread, readable from any.
struct DispatchHistograms {
  metrics::Histogram call_rows{metrics::kCountBounds};       // of each call that was taken
  metrics::Histogram call_seconds{metrics::kSecondsBounds};  // of each that was answered with rows
  std::atomic<uint64_t> gate_ns{0}, combine_ns{0};
};

}  // namespace atl::dispatch
