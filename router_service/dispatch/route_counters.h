// How many rows the gate chose each expert for.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace atl::dispatch {

// Counters per (layer, expert): rows that the gate chose it for, the shared expert included.
// Readable from any thread.
class RouteCounters {
 public:
  RouteCounters(int64_t num_layers, int64_t num_experts)
      : num_layers_(num_layers), num_experts_(num_experts), rows_(num_layers * num_experts) {}
  void Add(int32_t layer, int32_t expert, uint64_t rows) {
    rows_[layer * num_experts_ + expert].fetch_add(rows, std::memory_order_relaxed);
  }
  uint64_t Get(int32_t layer, int32_t expert) const {
    return rows_[layer * num_experts_ + expert].load(std::memory_order_relaxed);
  }
  int64_t num_layers() const { return num_layers_; }
  int64_t num_experts() const { return num_experts_; }

 private:
  const int64_t num_layers_;
  const int64_t num_experts_;
  std::vector<std::atomic<uint64_t>> rows_;
};

}  // namespace atl::dispatch
