// What a process announces itself as.
#pragma once

#include <string>

#include "atollpb/v1/cluster.pb.h"
#include "base/status.h"
#include "cluster/link_service.h"
#include "cluster/node_options.h"

namespace atl::cluster {

// Name (made from role, host and pid if the options have none), a new incarnation, role, versions,
// zone, host and pid. The address comes later: AdvertisedAddress.
pb::NodeInfo MakeNodeInfo(const NodeOptions& options, pb::NodeRole role,
                          const std::string& revision, const std::string& numerics_id);

// "router", "attention", "expert".
const char* RoleName(pb::NodeRole role);

// HOST:PORT that others reach gRPC at: options.advertise, with the port listened on where it has 0;
// else where it listens. FailedPrecondition: listening on every interface without advertise.
StatusOr<std::string> AdvertisedAddress(const NodeOptions& options,
                                        const std::string& listening_on);

LinkIdentity IdentityOf(const pb::NodeInfo& info);

}  // namespace atl::cluster
