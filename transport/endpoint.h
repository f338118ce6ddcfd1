// How links over sockets come to be: a listener per process, one-time tickets, and the connecting
// side.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "transport/link.h"

namespace atl::transport {

using Ticket = std::array<uint8_t, 16>;

// Tickets that a peer was given over control and must present first on its link: each works once,
// for `ttl`. At most 1024 are open; the oldest makes room. Thread-safe.
class TicketBook {
 public:
  explicit TicketBook(absl::Duration ttl = absl::Seconds(10));
  ~TicketBook();
  // Random 128 bits from the system. `peer` is told back when the ticket is redeemed.
  Ticket Issue(const std::string& peer);
  // The peer's name; PermissionDenied if unknown, used or expired (the comparison takes constant
  // time).
  StatusOr<std::string> Redeem(const Ticket& ticket);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "tcp:HOST:PORT" ("tcp:[::1]:PORT" for IPv6), "unix:PATH" ("unix:@NAME" for the abstract
// namespace), or "shm:" and a unix socket's path or @NAME.
struct Endpoint {
  LinkKind kind = LinkKind::kTcp;
  std::string address;
  std::string ToString() const;
};
StatusOr<Endpoint> ParseEndpoint(const std::string& text);

// The same endpoint with a host name replaced by an address of it. Blocks on the name service: for
// control threads, before ConnectLink. NotFound: no such host.
StatusOr<Endpoint> ResolveEndpoint(const Endpoint& endpoint);

// Accepts connections on one endpoint, lets them show their ticket within 2 s (64 waiting at most:
// the oldest makes room), then hands out the link. Lives on `loop`'s thread.
class LinkListener {
 public:
  using OnLink = std::function<void(const std::string& peer, std::unique_ptr<Link>)>;
  // Binds at once (AlreadyExists: in use; a socket file that nobody listens on is replaced;
  // Unavailable: shm, and the system gives no memory that can be shared). tcp
  // port 0 takes a free one: see endpoint(). `tickets` and `loop` outlive the listener; destroying
  // it ends listening and the connections that wait, not the links.
  static StatusOr<std::unique_ptr<LinkListener>> Listen(EventLoop* loop, const Endpoint& endpoint,
                                                        TicketBook* tickets,
                                                        const LinkLimits& limits, OnLink on_link);
  virtual ~LinkListener() = default;
  virtual const Endpoint& endpoint() const = 0;
};

// Connects without blocking, presents the ticket, waits for the listener's answer, then calls
// `done` once, from a turn of the loop, within `timeout`. InvalidArgument: a host name
// (ResolveEndpoint first); Unavailable: nobody listens, or it hung up; PermissionDenied: the ticket
// was refused; DeadlineExceeded.
void ConnectLink(EventLoop* loop, const Endpoint& endpoint, const Ticket& ticket,
                 const LinkLimits& limits, absl::Duration timeout,
                 std::function<void(StatusOr<std::unique_ptr<Link>>)> done);

}  // namespace atl::transport
