#include "cluster/node_info.h"

#include <unistd.h>

#include "cluster/host_id.h"
#include "rpc/address.h"

namespace atl::cluster {

const char* RoleName(pb::NodeRole role) {
  switch (role) {
    case pb::NODE_ROLE_ROUTER:
      return "router";
    case pb::NODE_ROLE_ATTENTION:
      return "attention";
    case pb::NODE_ROLE_EXPERT:
      return "expert";
    default:
      return "node";
  }
}

pb::NodeInfo MakeNodeInfo(const NodeOptions& options, pb::NodeRole role,
                          const std::string& revision, const std::string& numerics_id) {
  pb::NodeInfo info;
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  info.set_name(options.name.empty() ? absl::StrFormat("%s-%s-%d", RoleName(role), host, getpid())
                                     : options.name);
  info.set_incarnation(RandomId());
  info.set_role(role);
  info.set_revision(revision);
  info.set_numerics_id(numerics_id);
  info.set_protocol_version(transport::kProtocolVersion);
  info.set_zone(options.zone);
  info.set_host_id(HostId());
  info.set_pid(getpid());
  return info;
}

StatusOr<std::string> AdvertisedAddress(const NodeOptions& options,
                                        const std::string& listening_on) {
  ATL_ASSIGN_OR_RETURN(const rpc::HostPort bound, rpc::ParseHostPort(listening_on));
  if (options.advertise.empty()) {
    if (bound.wildcard()) {
      return FailedPrecondition(
          "listening on %s: expected --advertise HOST:PORT to say where others reach this node",
          listening_on);
    }
    return listening_on;
  }
  ATL_ASSIGN_OR_RETURN(rpc::HostPort where, rpc::ParseHostPort(options.advertise));
  if (where.host.empty())
    return InvalidArgument("advertise '%s': expected a host", options.advertise);
  if (where.port == 0) where.port = bound.port;
  return where.ToString();
}

LinkIdentity IdentityOf(const pb::NodeInfo& info) {
  return {.name = info.name(),
          .revision = info.revision(),
          .numerics_id = info.numerics_id(),
          .host_id = info.host_id(),
          .protocol_version = info.protocol_version()};
}

}  // namespace atl::cluster
