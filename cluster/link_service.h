// The handshake that a data-plane link needs, answered: who may connect, where, and with which
// ticket.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "atollpb/v1/link.grpc.pb.h"
#include "base/status.h"
#include "transport/endpoint.h"

namespace atl::cluster {

namespace pb = ::atollpb::v1;

// What both sides of a handshake tell of themselves.
struct LinkIdentity {
  std::string name;
  std::string revision;
  std::string numerics_id;
  std::string host_id;
  uint32_t protocol_version = transport::kProtocolVersion;
};

pb::LinkKind ToProto(transport::LinkKind kind);

// Thread-safe.
class LinkService final : public pb::LinkService::CallbackService {
 public:
  // `endpoints`: what this process listens on, one a kind. `tickets` must outlive it.
  LinkService(LinkIdentity self, std::vector<transport::Endpoint> endpoints,
              transport::TicketBook* tickets);

  // False: UNAVAILABLE to all (draining).
  void SetAccepting(bool accepting) { accepting_ = accepting; }

  // OpenLink without gRPC: the first offered kind that is had here too; shm and unix only on one
  // host.
  StatusOr<pb::OpenLinkResponse> Open(const pb::OpenLinkRequest& request);

  grpc::ServerUnaryReactor* OpenLink(grpc::CallbackServerContext* context,
                                     const pb::OpenLinkRequest* request,
                                     pb::OpenLinkResponse* response) override;

 private:
  const LinkIdentity self_;
  const std::vector<transport::Endpoint> endpoints_;
  transport::TicketBook* const tickets_;
  std::atomic<bool> accepting_{true};
};

}  // namespace atl::cluster
