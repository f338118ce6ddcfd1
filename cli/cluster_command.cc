#include "attention_service/engine.h"
#include "cli/cluster_layout.h"
#include "cli/commands.h"
#include "cli/server_loop.h"
#include "model/checkpoint.h"

namespace atl::cli {
namespace {

// What would end every child, said once.
Status CheckModel(const ClusterOptions& options) {
  ATL_ASSIGN_OR_RETURN(const auto checkpoint, model::Checkpoint::Open(options.node.model_dir));
  const model::ModelConfig& config = checkpoint->config();
  ATL_RETURN_IF_ERROR(model::CheckServable(config));
  ATL_ASSIGN_OR_RETURN(const auto profile, model::FindProfile(options.node.profile));
  return attention::ResolveEngineOptions(options.engine, config, profile).status();
}

}  // namespace

int RunCluster(const std::string& command, int argc, char** argv) {
  ClusterOptions options;
  options.node.listen = kDefaultListen;
  options.node.drain_timeout = absl::Seconds(10);
  std::string restart = "always";
  std::string status_file;
  FlagSet flags(command,
                "Serves a checkpoint from many processes on this machine and keeps them alive.");
  flags.Add("--routers", &options.num_routers, "router processes");
  flags.Add("--attention", &options.num_attention, "attention processes");
  flags.Add("--experts", &options.num_experts, "expert processes");
  flags.Add("--status-file", &status_file,
            "JSON file that tells who runs where; written whenever it changes");
  flags.AddOneOf("--restart", &restart, {"always", "never"}, "what happens to a process that died");
  AddModelFlags(&flags, &options.node);
  AddListenFlags(&flags, &options.node);
  flags.Add("--links", &options.node.links,
            "data-plane links allowed, best first: shm, unix, tcp; empty: all");
  flags.Add("--link-spin-us", &options.node.link_spin_us,
            "how long threads ask their links before they sleep; -1: 0, for processes share cores");
  AddDispatchFlag(&flags, &options.dispatch);
  AddPackedCacheFlags(&flags, &options.packed_cache);
  AddEngineFlags(&flags, &options.engine);
  AddFrontDoorFlags(&flags, &options.max_concurrent_requests, &options.max_queued_requests);
  AddPlannerFlags(&flags, &options.min_replicas, &options.settle);
  AddExpertFlags(&flags, &options.memory_budget_bytes, &options.merge);
  AddServerFlags(&flags, &options.node, &options.process);
  if (const auto code = flags.Parse(argc, argv)) return *code;
  const Status checked = CheckClusterOptions(options);
  if (!checked.ok()) return flags.Mistake(std::string(checked.message()));

  InitLog("cluster", ParseLogLevel(options.process.log_level));
  const Status model = CheckModel(options);
  if (!model.ok()) return Fail(command, model);
  const StatusOr<ClusterLayout> layout = LayOutCluster(options);
  if (!layout.ok()) return Fail(command, layout.status());
  return Supervise(command, {.children = layout->children,
                             .router_addresses = layout->router_addresses,
                             .status_file = status_file,
                             .restart = restart == "always",
                             .grace = options.node.drain_timeout + absl::Seconds(2)});
}

}  // namespace atl::cli
