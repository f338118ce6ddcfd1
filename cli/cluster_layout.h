// Which processes `atoll cluster` starts, with which flags.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/ports.h"
#include "cli/role_flags.h"
#include "cli/supervisor.h"

namespace atl::cli {

struct ClusterOptions {
  int num_routers = 1;
  int num_attention = 1;
  int num_experts = 2;
  cluster::NodeOptions node;  // of every process; listen, health_listen and metrics_listen are
                              // the first router's
  attention::EngineOptions engine;
  ProcessFlags process;
  std::string dispatch = "service";
  int max_concurrent_requests = 256;
  int max_queued_requests = 1024;
  int min_replicas = 1;
  absl::Duration settle = absl::Milliseconds(300);
  int64_t memory_budget_bytes = 0;
  bool merge = true;
  weights::PackedCacheOptions packed_cache;  // of attention and expert processes
};

struct ClusterLayout {
  std::vector<ChildSpec> children;
  std::vector<std::string> router_addresses;  // as this machine reaches them
  std::vector<ReservedPort> ports;            // of the routers: keep as long as the cluster runs
};

// InvalidArgument says which flag is wrong.
Status CheckClusterOptions(const ClusterOptions& options);

// Names the processes (router-0, attention-0, expert-0, ...) and chooses the routers' ports.
// AlreadyExists: --listen's port is in use.
StatusOr<ClusterLayout> LayOutCluster(const ClusterOptions& options);

}  // namespace atl::cli
