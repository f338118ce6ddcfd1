// A model of which only the gate matters.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "model/config.h"
#include "router_service/dispatch/gate_weights.h"

namespace atl::bench {

// One MoE layer, layer 0, with random gate weights.
struct GateModel {
  model::ModelConfig config;
  std::unique_ptr<dispatch::GateWeights> gates;
};

// The preset's hidden_size and routing with as many routed experts (0: the preset's own), and its
// shared expert or none; all else is as small as a checkpoint allows, which is written to a
// temporary folder, read and removed. InvalidArgument: no such preset, or experts that its groups
// do not divide into.
StatusOr<GateModel> MakeGateModel(const std::string& preset, int64_t experts, bool shared,
                                  ThreadPool* pool);

}  // namespace atl::bench
