// Where an engine's steps spend their time, and how large they are, for metrics.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "metrics/histogram.h"

namespace atl::attention {

// A step's time is cut into these, in this order.
enum class StepPart {
  kPlan,       // choosing rows
  kAttention,  // all layers, but for
  kExperts,    // handing rows to the experts and waiting for theirs
  kSample,     // logits, sampling, answers
  kDraft,      // guessing ahead, its own layers and experts included
};
inline constexpr std::array<const char*, 5> kStepPartNames = {"plan", "attention", "experts",
                                                              "sample", "draft"};

// Written by the engine's thread, readable from any.
struct StepHistograms {
  metrics::Histogram seconds{metrics::kSecondsBounds};
  metrics::Histogram rows{metrics::kCountBounds};
  metrics::Histogram sequences{metrics::kCountBounds};
  metrics::Histogram queue_seconds{metrics::kSecondsBounds};  // a sequence's, until its first step
  std::array<std::atomic<uint64_t>, kStepPartNames.size()> part_ns{};

  void Add(StepPart part, int64_t ns) {
    part_ns[static_cast<size_t>(part)].fetch_add(ns, std::memory_order_relaxed);
  }
};

// Times one step: each part from the end of the one before it.
class StepTimer {
 public:
  explicit StepTimer(StepHistograms* histograms)
      : histograms_(histograms), began_ns_(metrics::MonotonicNs()), last_ns_(began_ns_) {}

  void EndOf(StepPart part) { histograms_->Add(part, SinceLast()); }
  // Attention and experts take turns: `experts_ns` of the time since the part before.
  void EndOfLayers(int64_t experts_ns) {
    histograms_->Add(StepPart::kAttention, SinceLast() - experts_ns);
    histograms_->Add(StepPart::kExperts, experts_ns);
  }
  void EndOfStep() {
    histograms_->seconds.Record(static_cast<double>(last_ns_ - began_ns_) * 1e-9);
  }

 private:
  int64_t SinceLast() {
    const int64_t before = last_ns_;
    last_ns_ = metrics::MonotonicNs();
    return last_ns_ - before;
  }

  StepHistograms* const histograms_;
  const int64_t began_ns_;
  int64_t last_ns_;
};

}  // namespace atl::attention
