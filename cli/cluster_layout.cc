#include "cli/cluster_layout.h"

namespace atl::cli {
namespace {

constexpr int kMaxProcesses = 256;  // of one role

// Where this machine reaches what listens on `host`.
std::string LocalHost(const rpc::HostPort& where) {
  if (!where.wildcard()) return where.host;
  return where.host == "::" ? "::1" : "127.0.0.1";
}

// What every process gets; ports are free ones on loopback, which the status file tells.
cluster::NodeOptions ChildNode(const ClusterOptions& options, const std::string& role, int idx,
                               const std::vector<std::string>& routers) {
  cluster::NodeOptions node = options.node;
  node.name = absl::StrFormat("%s-%d", role, idx);
  node.join = routers;
  if (node.link_spin_us < 0) node.link_spin_us = 0;  // the processes share the cores
  node.listen = "127.0.0.1:0";
  node.health_listen = "127.0.0.1:0";
  node.metrics_listen = "127.0.0.1:0";
  return node;
}

ChildSpec RouterChild(const ClusterOptions& options, int idx, const ReservedPort& port,
                      const std::vector<std::string>& routers) {
  router::RouterServerOptions router;
  router.node = ChildNode(options, "router", idx, routers);
  router.node.listen = port.where().ToString();
  router.node.advertise = routers[idx];
  if (idx == 0 && !options.node.health_listen.empty())
    router.node.health_listen = options.node.health_listen;
  if (idx == 0 && !options.node.metrics_listen.empty())
    router.node.metrics_listen = options.node.metrics_listen;
  router.rank = idx;
  router.max_concurrent_requests = options.max_concurrent_requests;
  router.max_queued_requests = options.max_queued_requests;
  router.context_length = options.engine.context_length;
  router.speculate = options.engine.speculate;
  router.min_replicas = options.min_replicas;
  router.settle = options.settle;
  return {"router", router.node.name, RouterArguments(router, options.process)};
}

ChildSpec AttentionChild(const ClusterOptions& options, int idx,
                         const std::vector<std::string>& routers) {
  attention::AttentionServerOptions attention;
  attention.node = ChildNode(options, "attention", idx, routers);
  attention.engine = options.engine;
  attention.dispatch = options.dispatch;
  attention.packed_cache = options.packed_cache;
  return {"attention", attention.node.name, AttentionArguments(attention, options.process)};
}

ChildSpec ExpertChild(const ClusterOptions& options, int idx,
                      const std::vector<std::string>& routers) {
  expert::ExpertServerOptions expert;
  expert.node = ChildNode(options, "expert", idx, routers);
  expert.memory_budget_bytes = options.memory_budget_bytes;
  expert.merge = options.merge;
  expert.packed_cache = options.packed_cache;
  return {"expert", expert.node.name, ExpertArguments(expert, options.process)};
}

Status CheckCount(const std::string& flag, int count) {
  if (count >= 1 && count <= kMaxProcesses) return absl::OkStatus();
  return InvalidArgument("%s: expected 1 to %d, found %d", flag, kMaxProcesses, count);
}

}  // namespace

Status CheckClusterOptions(const ClusterOptions& options) {
  ATL_RETURN_IF_ERROR(CheckCount("--routers", options.num_routers));
  ATL_RETURN_IF_ERROR(CheckCount("--attention", options.num_attention));
  ATL_RETURN_IF_ERROR(CheckCount("--experts", options.num_experts));
  ATL_RETURN_IF_ERROR(weights::CheckPackedCacheOptions(options.packed_cache));
  return CheckNodeOptions(options.node);
}

StatusOr<ClusterLayout> LayOutCluster(const ClusterOptions& options) {
  ClusterLayout layout;
  ATL_ASSIGN_OR_RETURN(const rpc::HostPort first, rpc::ParseHostPort(options.node.listen));
  for (int i = 0; i < options.num_routers; ++i) {
    ATL_ASSIGN_OR_RETURN(ReservedPort port,
                         ReservedPort::Reserve({first.host, i == 0 ? first.port : 0}));
    layout.router_addresses.push_back(
        rpc::HostPort{LocalHost(first), port.where().port}.ToString());
    layout.ports.push_back(std::move(port));
  }
  const std::vector<std::string>& routers = layout.router_addresses;
  for (int i = 0; i < options.num_routers; ++i) {
    layout.children.push_back(RouterChild(options, i, layout.ports[i], routers));
  }
  for (int i = 0; i < options.num_attention; ++i)
    layout.children.push_back(AttentionChild(options, i, routers));
  for (int i = 0; i < options.num_experts; ++i)
    layout.children.push_back(ExpertChild(options, i, routers));
  for (ChildSpec& child : layout.children)
    child.arguments.insert(child.arguments.begin(), child.role);
  return layout;
}

}  // namespace atl::cli
