// The connecting side: keeps one link to every wanted peer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/link_service.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::cluster {

struct LinkPeer {
  std::string name;
  std::string grpc_address;
  uint64_t incarnation = 0;
};

struct LinkConnectorOptions {
  LinkIdentity self;
  std::vector<transport::LinkKind> offered;  // best first
  transport::LinkLimits limits;
  absl::Duration timeout = absl::Seconds(2);  // of the handshake, then of the connection
};

// Tries again after 20 ms to 0.5 s as long as a peer is wanted (2 s if it refuses, which is logged
// once as an error); a kind whose connections fail twice in a row is left out until another one
// stands or all have failed. Lives on the loop's thread, destructor included.
class LinkConnector {
 public:
  struct Callbacks {
    // From the loop. The owner has the link from now on, and tells LinkClosed when it dies.
    std::function<void(const std::string& peer, std::unique_ptr<transport::Link>)> on_link;
    // From inside SetPeers: the peer is not wanted any more, or another incarnation took its place,
    // and its link is to be dropped. Only where on_link came and LinkClosed did not. Must not call
    // SetPeers.
    std::function<void(const std::string& peer)> on_gone;
  };

  LinkConnector(transport::EventLoop* loop, LinkConnectorOptions options, Callbacks callbacks);
  ~LinkConnector();

  // The peers to have links to, in place of those before.
  void SetPeers(const std::vector<LinkPeer>& peers);
  void LinkClosed(const std::string& peer);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace atl::cluster
