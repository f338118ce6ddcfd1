#include <cstdio>
#include <vector>

#include "atollpb/v1/cluster.grpc.pb.h"
#include "atollpb/v1/inference.grpc.pb.h"
#include "cli/commands.h"
#include "cli/request_flags.h"
#include "cli/server_loop.h"
#include "cluster/node_info.h"
#include "rpc/channel.h"
#include "rpc/status.h"

namespace atl::cli {
namespace {

namespace pb = atollpb::v1;

constexpr absl::Duration kTimeout = absl::Seconds(3);

std::string StateOf(const pb::Announcement& node, const std::string& planner) {
  if (node.state().draining()) return "draining";
  if (node.info().role() != pb::NODE_ROLE_ROUTER) return "live";
  if (!node.state().ready()) return "not ready";
  return node.info().name() == planner ? "ready, plans" : "ready";
}

std::string HoldsOf(const pb::Announcement& node) {
  if (node.info().role() == pb::NODE_ROLE_EXPERT) {
    int experts = 0;
    for (const auto& layer : node.state().holds()) experts += layer.experts_size();
    return absl::StrFormat("%d experts", experts);
  }
  if (node.info().role() != pb::NODE_ROLE_ATTENTION) return "";
  return absl::StrFormat("%d running, %d waiting, %d blocks free", node.state().running_sequences(),
                         node.state().waiting_sequences(), node.state().free_blocks());
}

// Whether `atoll serve` is there: it answers clients, and knows of no other nodes.
bool IsOneProcess(const std::string& address) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kTimeout);
  pb::GetModelResponse model;
  return pb::ModelService::NewStub(rpc::MakeChannel(address))->GetModel(&context, {}, &model).ok();
}

// Unimplemented: `atoll serve` answers there.
StatusOr<pb::GetSnapshotResponse> GetSnapshot(const std::vector<std::string>& addresses) {
  Status last;
  for (const std::string& address : addresses) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, kTimeout);
    pb::GetSnapshotResponse snapshot;
    const auto stub = pb::ClusterService::NewStub(rpc::MakeChannel(address));
    last = Annotate(rpc::FromGrpc(stub->GetSnapshot(&context, {}, &snapshot)), address);
    if (last.ok()) return snapshot;
    if (!absl::IsUnimplemented(last)) continue;
    if (IsOneProcess(address))
      return Unimplemented("%s: one process (atoll serve), no nodes", address);
    last = FailedPrecondition("%s: expected a router, found another server", address);
  }
  return last;
}

}  // namespace

int RunNodes(const std::string& command, int argc, char** argv) {
  AddressFlags address;
  FlagSet flags(command, "Lists the nodes of a cluster as one of its routers sees them.");
  flags.Add("--address", &address.addresses, "routers, HOST:PORT; the first that answers is asked");
  if (const auto code = flags.Parse(argc, argv)) return *code;
  const auto options = ToClientOptions(address);
  if (!options.ok()) return flags.Mistake(std::string(options.status().message()));
  const StatusOr<pb::GetSnapshotResponse> snapshot = GetSnapshot(address.addresses);
  if (absl::IsUnimplemented(snapshot.status())) {
    std::printf("%s\n", std::string(snapshot.status().message()).c_str());
    return kExitOk;
  }
  if (!snapshot.ok()) return Fail(command, snapshot.status());

  std::printf("%-16s %-10s %-22s %-13s %-8s %s\n", "NAME", "ROLE", "GRPC", "STATE", "PID", "HOLDS");
  for (const pb::Announcement& node : snapshot->view().nodes()) {
    std::printf("%-16s %-10s %-22s %-13s %-8d %s\n", node.info().name().c_str(),
                cluster::RoleName(node.info().role()), node.info().grpc_address().c_str(),
                StateOf(node, snapshot->planner()).c_str(), static_cast<int>(node.info().pid()),
                HoldsOf(node).c_str());
  }
  std::printf("as seen by %s; %d experts without a holder\n", snapshot->view().router().c_str(),
              static_cast<int>(snapshot->missing_experts()));
  return kExitOk;
}

}  // namespace atl::cli
