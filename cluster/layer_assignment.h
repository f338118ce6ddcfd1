// The planner's arithmetic: how many experts each node gets, and which. Pure and deterministic.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::cluster {

// Shares of `total` units, one per node, as equal as `capacity` permits; odd units go to those that
// hold most, then to the first. REQUIRES: the capacities' sum is at least `total`.
std::vector<int64_t> TotalShares(const std::vector<int64_t>& capacity, int64_t total,
                                 const std::vector<int64_t>& held);

// Cuts each node's total into layers, evenly: every layer gets floor or ceil of total / num_layers,
// and all layers add up to the same sum. Odd units go to nodes that hold more than the floor.
// REQUIRES: num_layers divides the sum of totals.
class LayerQuotas {
 public:
  LayerQuotas(const std::vector<int64_t>& totals, int64_t num_layers);
  // The next layer's quotas; called num_layers times. held[node]: what it holds of that layer.
  std::vector<int64_t> Next(const std::vector<std::set<int32_t>>& held);

 private:
  std::vector<int64_t> base_;   // [node] in every layer
  std::vector<int64_t> extra_;  // [node] layers to come that get one more
  int64_t layers_left_ = 0;
};

struct LayerInput {
  int64_t num_experts = 0;
  int replicas = 1;
  std::vector<int64_t> quotas;     // [node], sum num_experts * replicas, each at most num_experts
  std::vector<std::string> zones;  // [node]
  std::vector<std::set<int32_t>> held;  // [node]
};
using LayerAssignment = std::vector<std::set<int32_t>>;  // [node]

// `replicas` copies of every expert, on different nodes, each node exactly at its quota; different
// zones first, then what is held stays, then whoever has most room.
StatusOr<LayerAssignment> AssignLayer(const LayerInput& input);

}  // namespace atl::cluster
