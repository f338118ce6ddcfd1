// An expert node: store, engine, data-plane listener, gRPC services, membership.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "cluster/node_options.h"
#include "weights/packed_cache.h"

namespace atl::expert {

struct ExpertServerOptions {
  cluster::NodeOptions node;
  int64_t memory_budget_bytes = 0;  // of packed weights; 0: no bound
  bool merge = true;
  weights::PackedCacheOptions packed_cache;
};

class ExpertServer {
 public:
  // Opens the checkpoint, listens, starts joining. Experts are loaded as the planner commands.
  static StatusOr<std::unique_ptr<ExpertServer>> Start(const ExpertServerOptions& options);
  virtual ~ExpertServer() = default;  // stops at once
  virtual cluster::NodeAddresses addresses() const = 0;
  // Announces draining, finishes queued work, at most for drain_timeout; then stops.
  virtual void DrainAndStop() = 0;
};

}  // namespace atl::expert
