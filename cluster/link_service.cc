#include "cluster/link_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "rpc/status.h"

namespace atl::cluster {
namespace {

Status CheckPeer(const LinkIdentity& self, const pb::OpenLinkRequest& request) {
  if (request.protocol_version() != self.protocol_version) {
    return FailedPrecondition("link of '%s' to '%s': protocol version %d, expected %d",
                              request.peer(), self.name, request.protocol_version(),
                              self.protocol_version);
  }
  if (request.revision() != self.revision) {
    return FailedPrecondition("link of '%s' to '%s': model revision '%s', expected '%s'",
                              request.peer(), self.name, request.revision(), self.revision);
  }
  if (request.numerics_id() != self.numerics_id) {
    return FailedPrecondition("link of '%s' to '%s': numerics id '%s', expected '%s'",
                              request.peer(), self.name, request.numerics_id(), self.numerics_id);
  }
  return absl::OkStatus();
}

}  // namespace

pb::LinkKind ToProto(transport::LinkKind kind) {
  switch (kind) {
    case transport::LinkKind::kInproc:
      return pb::LINK_KIND_INPROC;
    case transport::LinkKind::kUnix:
      return pb::LINK_KIND_UNIX;
    case transport::LinkKind::kTcp:
      return pb::LINK_KIND_TCP;
    case transport::LinkKind::kShm:
      return pb::LINK_KIND_SHM;
  }
  return pb::LINK_KIND_UNSPECIFIED;
}

LinkService::LinkService(LinkIdentity self, std::vector<transport::Endpoint> endpoints,
                         transport::TicketBook* tickets)
    : self_(std::move(self)), endpoints_(std::move(endpoints)), tickets_(tickets) {}

StatusOr<pb::OpenLinkResponse> LinkService::Open(const pb::OpenLinkRequest& request) {
  if (!accepting_) return Unavailable("'%s' is draining: no new links", self_.name);
  ATL_RETURN_IF_ERROR(CheckPeer(self_, request));
  const bool one_host = !self_.host_id.empty() && request.host_id() == self_.host_id;
  for (const int offered : request.offered()) {
    for (const transport::Endpoint& endpoint : endpoints_) {
      if (ToProto(endpoint.kind) != offered) continue;
      if (endpoint.kind != transport::LinkKind::kTcp && !one_host) continue;
      const transport::Ticket ticket = tickets_->Issue(request.peer());
      pb::OpenLinkResponse response;
      response.set_kind(ToProto(endpoint.kind));
      response.set_endpoint(endpoint.ToString());
      response.set_ticket(ticket.data(), ticket.size());
      response.set_name(self_.name);
      return response;
    }
  }
  const auto kind_name = [](std::string* out, int kind) {
    out->append(pb::LinkKind_Name(static_cast<pb::LinkKind>(kind)));
  };
  std::vector<int> here;
  for (const transport::Endpoint& endpoint : endpoints_) here.push_back(ToProto(endpoint.kind));
  return FailedPrecondition(
      "link of '%s' to '%s': offered [%s], here are [%s] (shm and unix on one host only: %s)",
      request.peer(), self_.name, absl::StrJoin(request.offered(), ", ", kind_name),
      absl::StrJoin(here, ", ", kind_name), one_host ? "it is" : "it is another");
}

grpc::ServerUnaryReactor* LinkService::OpenLink(grpc::CallbackServerContext* context,
                                                const pb::OpenLinkRequest* request,
                                                pb::OpenLinkResponse* response) {
  StatusOr<pb::OpenLinkResponse> answer = Open(*request);
  if (answer.ok()) *response = *std::move(answer);
  auto* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(answer.status()));
  return reactor;
}

}  // namespace atl::cluster
