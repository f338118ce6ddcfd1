// The side of a process that takes links: its listeners, their tickets and the handshake service.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/link_service.h"
#include "cluster/node_options.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"

namespace atl::cluster {

// The kinds that NodeOptions::links allows, best first. InvalidArgument: what is no kind of socket
// link.
StatusOr<std::vector<transport::LinkKind>> AllowedLinks(const NodeOptions& options);

// How long a loop with links asks them before it sleeps (EventLoop::SetSpin): as `options` say, or
// 50 us where `options.threads` leaves two of the `cores` free, else 0.
absl::Duration LinkSpin(const NodeOptions& options, int cores);

// Listens on unix sockets of random abstract names, for shm and for unix links, and on tcp, as far
// as `options` allow; without shm where the system gives none and `options` do not ask for it.
// Lives on the loop's thread, like LinkListener; its service is thread-safe.
class LinkAcceptor {
 public:
  // AlreadyExists: the data port is in use. FailedPrecondition: plaintext off this machine.
  static StatusOr<std::unique_ptr<LinkAcceptor>> Listen(transport::EventLoop* loop,
                                                        const NodeOptions& options,
                                                        const LinkIdentity& self,
                                                        transport::LinkListener::OnLink on_link);

  LinkService* service() { return service_.get(); }
  // HOST:PORT of tcp links; empty: none.
  const std::string& data_address() const { return data_address_; }

 private:
  LinkAcceptor() = default;
  transport::TicketBook tickets_;
  std::vector<std::unique_ptr<transport::LinkListener>> listeners_;
  std::unique_ptr<LinkService> service_;
  std::string data_address_;
};

}  // namespace atl::cluster
