#include "cluster/link_acceptor.h"

#include <netdb.h>
#include <sys/socket.h>

#include "base/log.h"
#include "cluster/host_id.h"
#include "rpc/address.h"

namespace atl::cluster {
namespace {

constexpr int kFreeCoresToSpin = 2;
// As long as the wake-up that it saves.
constexpr absl::Duration kSpinOnFreeCores = absl::Microseconds(50);

// Sockets take numbers: the first address of a name.
StatusOr<std::string> ToNumbers(const std::string& host) {
  if (host.empty()) return std::string("0.0.0.0");
  const addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (error != 0) return InvalidArgument("data-plane host '%s': %s", host, gai_strerror(error));
  char numbers[NI_MAXHOST];
  const int named = getnameinfo(found->ai_addr, found->ai_addrlen, numbers, sizeof(numbers),
                                nullptr, 0, NI_NUMERICHOST);
  freeaddrinfo(found);
  if (named != 0) return InvalidArgument("data-plane host '%s': %s", host, gai_strerror(named));
  return std::string(numbers);
}

StatusOr<transport::Endpoint> WhereToListen(transport::LinkKind kind, const NodeOptions& options) {
  if (kind != transport::LinkKind::kTcp) {
    return transport::Endpoint{kind, absl::StrFormat("@atoll-%016x%016x", RandomId(), RandomId())};
  }
  ATL_ASSIGN_OR_RETURN(
      rpc::HostPort where,
      rpc::ParseHostPort(options.data_listen.empty() ? options.listen : options.data_listen));
  if (options.data_listen.empty()) where.port = 0;
  ATL_RETURN_IF_ERROR(rpc::CheckPlaintext("data plane on", where.ToString(), options.insecure));
  ATL_ASSIGN_OR_RETURN(where.host, ToNumbers(where.host));
  return transport::Endpoint{kind, where.ToString()};
}

}  // namespace

StatusOr<std::vector<transport::LinkKind>> AllowedLinks(const NodeOptions& options) {
  if (options.links.empty())
    return std::vector{transport::LinkKind::kShm, transport::LinkKind::kUnix,
                       transport::LinkKind::kTcp};
  std::vector<transport::LinkKind> kinds;
  for (const std::string& name : options.links) {
    ATL_ASSIGN_OR_RETURN(const transport::LinkKind kind, transport::ParseLinkKind(name));
    if (kind == transport::LinkKind::kInproc) {
      return InvalidArgument("link kind '%s' does not leave a process: expected shm, unix or tcp",
                             name);
    }
    kinds.push_back(kind);
  }
  return kinds;
}

absl::Duration LinkSpin(const NodeOptions& options, int cores) {
  if (options.link_spin_us >= 0) return absl::Microseconds(options.link_spin_us);
  const bool free_cores = options.threads > 0 && cores - options.threads >= kFreeCoresToSpin;
  return free_cores ? kSpinOnFreeCores : absl::ZeroDuration();
}

StatusOr<std::unique_ptr<LinkAcceptor>> LinkAcceptor::Listen(
    transport::EventLoop* loop, const NodeOptions& options, const LinkIdentity& self,
    transport::LinkListener::OnLink on_link) {
  auto acceptor = std::unique_ptr<LinkAcceptor>(new LinkAcceptor);
  ATL_ASSIGN_OR_RETURN(const std::vector<transport::LinkKind> kinds, AllowedLinks(options));
  std::vector<transport::Endpoint> endpoints;
  for (const transport::LinkKind kind : kinds) {
    ATL_ASSIGN_OR_RETURN(const transport::Endpoint where, WhereToListen(kind, options));
    auto listening = transport::LinkListener::Listen(loop, where, &acceptor->tickets_,
                                                     transport::LinkLimits{}, on_link);
    if (kind == transport::LinkKind::kShm && options.links.empty() && !listening.ok()) {
      LogInfo("without shm links: %s", listening.status().ToString());
      continue;
    }
    ATL_ASSIGN_OR_RETURN(auto listener, std::move(listening));
    endpoints.push_back(listener->endpoint());
    if (kind == transport::LinkKind::kTcp) acceptor->data_address_ = listener->endpoint().address;
    acceptor->listeners_.push_back(std::move(listener));
  }
  acceptor->service_ =
      std::make_unique<LinkService>(self, std::move(endpoints), &acceptor->tickets_);
  return acceptor;
}

}  // namespace atl::cluster
