// A router: front door, dispatch, cluster view, planner.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "cluster/node_options.h"

namespace atl::router {

struct RouterServerOptions {
  cluster::NodeOptions node;
  int rank = 0;                       // the live router of lowest rank plans
  int max_concurrent_requests = 256;  // running at attention nodes, from this router
  int max_queued_requests = 1024;     // waiting here; beyond: RESOURCE_EXHAUSTED
  int64_t context_length =
      0;  // positions of a sequence at most, as at the attention nodes; 0: as the model says
  int speculate = 0;  // as at the attention nodes: above 0 the MTP layer's experts are placed too
  int min_replicas = 1;
  absl::Duration settle =
      absl::Milliseconds(300);  // quiet time of the membership before the planner acts
};

class RouterServer {
 public:
  static StatusOr<std::unique_ptr<RouterServer>> Start(const RouterServerOptions& options);
  virtual ~RouterServer() = default;
  virtual cluster::NodeAddresses addresses() const = 0;
  virtual void DrainAndStop() = 0;
};

}  // namespace atl::router
