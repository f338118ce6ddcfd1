#include "cluster/link_connector.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "cluster/uptime.h"
#include "rpc/address.h"
#include "rpc/channel.h"
#include "rpc/status.h"

namespace atl::cluster {
namespace {

constexpr absl::Duration kMinBackoff = absl::Milliseconds(20);
constexpr absl::Duration kMaxBackoff = absl::Milliseconds(500);
constexpr absl::Duration kRefusedBackoff = absl::Seconds(2);
constexpr absl::Duration kStable =
    absl::Seconds(1);  // a link that lived so long starts over with kMinBackoff

// Connections of one kind that may fail in a row before the other kinds are tried without it: the
// unix socket of a peer in another namespace, memory that cannot be shared.
constexpr int kMaxFailuresOfKind = 2;

// The way from gRPC's threads to a loop that may be gone.
class Mailbox {
 public:
  explicit Mailbox(transport::EventLoop* loop) : loop_(loop) {}
  void Post(std::function<void()> fn) {
    absl::MutexLock lock(&mu_);
    if (loop_ != nullptr) loop_->Post(std::move(fn));
  }
  void Close() {
    absl::MutexLock lock(&mu_);
    loop_ = nullptr;
  }

 private:
  absl::Mutex mu_;
  transport::EventLoop* loop_ ABSL_GUARDED_BY(mu_);
};

// One OpenLink under way.
struct OpenCall {
  std::unique_ptr<pb::LinkService::Stub> stub;
  grpc::ClientContext context;
  pb::OpenLinkRequest request;
  pb::OpenLinkResponse response;
};

// "ipv4:10.0.0.1:5000" or "ipv6:%5B::1%5D:5000" -> the host. Empty: something else.
std::string HostOfPeer(const std::string& uri) {
  const size_t colon = uri.find(':');
  if (!absl::StartsWith(uri, "ipv4:") && !absl::StartsWith(uri, "ipv6:")) return "";
  const std::string address =
      absl::StrReplaceAll(uri.substr(colon + 1), {{"%5B", "["}, {"%5D", "]"}});
  const StatusOr<rpc::HostPort> parsed = rpc::ParseHostPort(address);
  return parsed.ok() ? parsed->host : "";
}

// Where to connect: a peer that listens on every interface is reached where gRPC reached it.
StatusOr<transport::Endpoint> Destination(const OpenCall& call) {
  ATL_ASSIGN_OR_RETURN(transport::Endpoint endpoint,
                       transport::ParseEndpoint(call.response.endpoint()));
  if (endpoint.kind != transport::LinkKind::kTcp) return endpoint;
  ATL_ASSIGN_OR_RETURN(rpc::HostPort where, rpc::ParseHostPort(endpoint.address));
  if (where.wildcard()) where.host = HostOfPeer(call.context.peer());
  endpoint.address = where.ToString();
  return endpoint;
}

}  // namespace

struct LinkConnector::State : std::enable_shared_from_this<LinkConnector::State> {
  enum class Phase { kWaiting, kConnecting, kLinked };
  struct Peer {
    LinkPeer info;
    std::shared_ptr<grpc::Channel> channel;
    std::weak_ptr<OpenCall> call;  // the last one
    Phase phase = Phase::kWaiting;
    uint64_t attempt = 0;  // a late answer of an earlier one is dropped
    uint64_t timer = 0;
    absl::Duration backoff = absl::ZeroDuration();
    absl::Duration linked_at = absl::ZeroDuration();
    std::string last_error;                       // logged already
    std::map<transport::LinkKind, int> failures;  // of connections, since the last link
  };

  State(transport::EventLoop* loop, LinkConnectorOptions options, Callbacks callbacks)
      : loop(loop),
        options(std::move(options)),
        callbacks(std::move(callbacks)),
        mailbox(std::make_shared<Mailbox>(loop)) {}

  Peer* Find(const std::string& name, uint64_t attempt) {
    const auto it = peers.find(name);
    return it != peers.end() && it->second.attempt == attempt ? &it->second : nullptr;
  }

  void SetPeers(const std::vector<LinkPeer>& wanted) {
    std::map<std::string, LinkPeer> by_name;
    for (const LinkPeer& peer : wanted) by_name[peer.name] = peer;
    for (auto it = peers.begin(); it != peers.end();) {
      const auto found = by_name.find(it->first);
      const LinkPeer& info = it->second.info;
      const bool stays = found != by_name.end() && found->second.incarnation == info.incarnation &&
                         found->second.grpc_address == info.grpc_address;
      if (stays) {
        by_name.erase(found);
        ++it;
      } else {
        it = Drop(it);
      }
    }
    for (auto& [name, info] : by_name) {
      Peer& peer = peers[name];
      peer.channel = rpc::MakeChannel(info.grpc_address);
      peer.info = std::move(info);
      TryAfter(&peer, absl::ZeroDuration());
    }
  }

  std::map<std::string, Peer>::iterator Drop(std::map<std::string, Peer>::iterator it) {
    const std::string name = it->first;
    const bool linked = it->second.phase == Phase::kLinked;
    Abandon(&it->second);
    it = peers.erase(it);
    if (linked && callbacks.on_gone) callbacks.on_gone(name);
    return it;
  }

  void Abandon(Peer* peer) {
    loop->CancelTimer(peer->timer);
    if (const auto call = peer->call.lock()) call->context.TryCancel();
  }

  void TryAfter(Peer* peer, absl::Duration wait) {
    peer->phase = Phase::kWaiting;
    peer->attempt = next_attempt++;
    peer->timer = loop->RunAt(absl::Now() + wait, [weak = weak_from_this(), name = peer->info.name,
                                                   attempt = peer->attempt] {
      const auto self = weak.lock();
      Peer* waiting = self == nullptr ? nullptr : self->Find(name, attempt);
      if (waiting != nullptr) self->Open(waiting);
    });
  }

  void Open(Peer* peer) {
    peer->phase = Phase::kConnecting;
    auto call = std::make_shared<OpenCall>();
    peer->call = call;
    call->stub = pb::LinkService::NewStub(peer->channel);
    call->context.set_wait_for_ready(true);
    rpc::SetDeadline(&call->context, options.timeout);
    call->request.set_peer(options.self.name);
    call->request.set_protocol_version(options.self.protocol_version);
    call->request.set_revision(options.self.revision);
    call->request.set_numerics_id(options.self.numerics_id);
    call->request.set_host_id(options.self.host_id);
    for (const transport::LinkKind kind : Offered(peer)) call->request.add_offered(ToProto(kind));
    call->stub->async()->OpenLink(
        &call->context, &call->request, &call->response,
        [call, mailbox = mailbox, weak = weak_from_this(), name = peer->info.name,
         attempt = peer->attempt](const grpc::Status& status) {
          mailbox->Post([call, weak, name, attempt, status] {
            const auto self = weak.lock();
            Peer* peer = self == nullptr ? nullptr : self->Find(name, attempt);
            if (peer != nullptr) self->OnAnswer(peer, rpc::FromGrpc(status), *call);
          });
        });
  }

  // Never empty: when every kind has failed, all start over.
  std::vector<transport::LinkKind> Offered(Peer* peer) const {
    std::vector<transport::LinkKind> kinds = options.offered;
    std::erase_if(kinds, [&](transport::LinkKind kind) {
      const auto it = peer->failures.find(kind);
      return it != peer->failures.end() && it->second >= kMaxFailuresOfKind;
    });
    if (!kinds.empty()) return kinds;
    peer->failures.clear();
    return options.offered;
  }

  void OnAnswer(Peer* peer, const Status& status, const OpenCall& call) {
    if (!status.ok()) return Fail(peer, Refusal(peer, status));
    transport::Ticket ticket;
    if (call.response.name() != peer->info.name || call.response.ticket().size() != ticket.size()) {
      return Fail(
          peer,
          Unavailable("'%s' answers at %s with a ticket of %d bytes: expected '%s' and %d bytes",
                      call.response.name(), peer->info.grpc_address, call.response.ticket().size(),
                      peer->info.name, ticket.size()));
    }
    std::memcpy(ticket.data(), call.response.ticket().data(), ticket.size());
    const StatusOr<transport::Endpoint> endpoint = Destination(call);
    if (!endpoint.ok()) return Fail(peer, endpoint.status());
    if (std::count(options.offered.begin(), options.offered.end(), endpoint->kind) == 0) {
      return Fail(peer, Unavailable("'%s' answers with %s, a kind that was not offered",
                                    peer->info.name, endpoint->ToString()));
    }
    transport::ConnectLink(
        loop, *endpoint, ticket, options.limits, options.timeout,
        [weak = weak_from_this(), name = peer->info.name, attempt = peer->attempt,
         kind = endpoint->kind](StatusOr<std::unique_ptr<transport::Link>> link) {
          const auto self = weak.lock();
          Peer* peer = self == nullptr ? nullptr : self->Find(name, attempt);
          if (peer != nullptr) self->OnConnected(peer, kind, std::move(link));
        });
  }

  // What was offered may have been too little for this peer: then all kinds are offered again.
  static Status Refusal(Peer* peer, const Status& status) {
    if (!absl::IsFailedPrecondition(status) || peer->failures.empty()) return status;
    peer->failures.clear();
    return Unavailable("%s", status.message());
  }

  void OnConnected(Peer* peer, transport::LinkKind kind,
                   StatusOr<std::unique_ptr<transport::Link>> link) {
    if (!link.ok()) {
      ++peer->failures[kind];
      return Fail(peer, link.status());
    }
    peer->failures.clear();
    LogInfo("%s link to '%s'", transport::LinkKindName((*link)->kind()), peer->info.name);
    peer->phase = Phase::kLinked;
    peer->linked_at = Uptime();
    peer->last_error.clear();
    callbacks.on_link(peer->info.name, *std::move(link));
  }

  void Fail(Peer* peer, const Status& status) {
    const bool refused = absl::IsFailedPrecondition(status);
    if (peer->last_error != status.message()) {
      if (refused) {
        LogError("'%s' refuses a link: %s", peer->info.name, status.ToString());
      } else {
        LogDebug("no link to '%s': %s", peer->info.name, status.ToString());
      }
    }
    peer->last_error = std::string(status.message());
    peer->backoff =
        refused ? kRefusedBackoff : std::clamp(peer->backoff * 2, kMinBackoff, kMaxBackoff);
    TryAfter(peer, peer->backoff);
  }

  void LinkClosed(const std::string& name) {
    const auto it = peers.find(name);
    if (it == peers.end() || it->second.phase != Phase::kLinked) return;
    Peer& peer = it->second;
    if (Uptime() - peer.linked_at >= kStable) peer.backoff = absl::ZeroDuration();
    peer.backoff = std::clamp(peer.backoff * 2, kMinBackoff, kMaxBackoff);
    TryAfter(&peer, peer.backoff);
  }

  transport::EventLoop* const loop;
  const LinkConnectorOptions options;
  const Callbacks callbacks;
  const std::shared_ptr<Mailbox> mailbox;
  std::map<std::string, Peer> peers;
  uint64_t next_attempt = 1;
};

LinkConnector::LinkConnector(transport::EventLoop* loop, LinkConnectorOptions options,
                             Callbacks callbacks)
    : state_(std::make_shared<State>(loop, std::move(options), std::move(callbacks))) {}

LinkConnector::~LinkConnector() {
  state_->mailbox->Close();
  for (auto& [name, peer] : state_->peers) state_->Abandon(&peer);
}

void LinkConnector::SetPeers(const std::vector<LinkPeer>& peers) { state_->SetPeers(peers); }

void LinkConnector::LinkClosed(const std::string& peer) { state_->LinkClosed(peer); }

}  // namespace atl::cluster
