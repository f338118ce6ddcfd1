#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "cluster/link_acceptor.h"
#include "cluster/link_connector.h"
#include "cluster/loop_thread.h"
#include "cluster/node_info.h"
#include "cluster/uptime.h"
#include "rpc/channel.h"
#include "test_nodes.h"

namespace atl::cluster {
namespace {

LinkIdentity Identity(const std::string& name) {
  return {.name = name, .revision = "rev-a", .numerics_id = "bf16/1/cpu", .host_id = HostId()};
}

// A process that takes links and sends every frame back.
class Echo {
 public:
  explicit Echo(const std::string& name, NodeOptions options = {}) : loop_("echo") {
    auto acceptor = LinkAcceptor::Listen(
        loop_.loop(), options, Identity(name),
        [this](const std::string& peer, std::unique_ptr<transport::Link> link) {
          OnLink(peer, std::move(link));
        });
    EXPECT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
    auto server = rpc::Server::Start({.listen = options.listen, .insecure = options.insecure},
                                     "expert", {acceptor_->service()});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    loop_.Start();
  }
  ~Echo() {
    server_.reset();
    loop_.Stop();
  }

  const std::string& address() const { return server_->address(); }
  LinkService& service() { return *acceptor_->service(); }
  const std::string& data_address() const { return acceptor_->data_address(); }
  std::vector<std::string> Peers() {
    std::vector<std::string> peers;
    loop_.Call([&] { peers = peers_; }, absl::Seconds(10));
    return peers;
  }
  void CloseAll() {
    loop_.Call(
        [this] {
          for (auto& link : links_) link->Close(absl::UnavailableError("cut"));
        },
        absl::Seconds(10));
  }

 private:
  void OnLink(const std::string& peer, std::unique_ptr<transport::Link> link) {
    peers_.push_back(peer);
    links_.push_back(std::move(link));
    transport::Link* const l = links_.back().get();
    l->SetCallbacks(
        [l](transport::Frame frame) {
          l->Send(frame.header, std::move(frame.payload)).IgnoreError();
        },
        [](Status) {});
  }

  LoopThread loop_;
  std::unique_ptr<LinkAcceptor> acceptor_;
  std::vector<std::unique_ptr<transport::Link>> links_;  // on the loop
  std::vector<std::string> peers_;                       // on the loop
  std::unique_ptr<rpc::Server> server_;
};

// A process that connects.
class Caller {
 public:
  explicit Caller(LinkIdentity self = Identity("router-0"),
                  std::vector<transport::LinkKind> offered = *AllowedLinks({}))
      : loop_("caller") {
    connector_ = std::make_unique<LinkConnector>(
        loop_.loop(), LinkConnectorOptions{.self = std::move(self), .offered = std::move(offered)},
        LinkConnector::Callbacks{
            .on_link =
                [this](const std::string& peer, std::unique_ptr<transport::Link> link) {
                  OnLink(peer, std::move(link));
                },
            .on_gone = [this](const std::string& peer) { links_.erase(peer); }});
    loop_.Start();
  }
  ~Caller() {
    loop_.Stop();
    connector_.reset();
  }

  void SetPeers(std::vector<LinkPeer> peers) {
    loop_.Call([this, peers] { connector_->SetPeers(peers); }, absl::Seconds(10));
  }
  // Empty: none.
  std::string KindTo(const std::string& peer) {
    std::string kind;
    loop_.Call(
        [&] {
          const auto it = links_.find(peer);
          if (it != links_.end()) kind = transport::LinkKindName(it->second->kind());
        },
        absl::Seconds(10));
    return kind;
  }
  int num_made() {
    int made = 0;
    loop_.Call([&] { made = made_; }, absl::Seconds(10));
    return made;
  }
  bool Echoes(const std::string& peer) {
    loop_.Call(
        [&] {
          echoed_ = false;
          if (links_.contains(peer)) links_[peer]->Send({}, Buffer()).IgnoreError();
        },
        absl::Seconds(10));
    return Eventually([&] {
      bool echoed = false;
      loop_.Call([&] { echoed = echoed_; }, absl::Seconds(10));
      return echoed;
    });
  }

 private:
  void OnLink(const std::string& peer, std::unique_ptr<transport::Link> link) {
    ++made_;
    link->SetCallbacks([this](transport::Frame) { echoed_ = true; },
                       [this, peer](Status) {
                         links_.erase(peer);
                         connector_->LinkClosed(peer);
                       });
    links_[peer] = std::move(link);
  }

  LoopThread loop_;
  std::unique_ptr<LinkConnector> connector_;
  std::map<std::string, std::unique_ptr<transport::Link>> links_;
  int made_ = 0;
  bool echoed_ = false;
};

// Takes tcp links; names sockets for the other kinds that nobody listens on.
class Unreachable final : public pb::LinkService::CallbackService {
 public:
  explicit Unreachable(const LinkIdentity& self) : loop_("unreachable"), name_(self.name) {
    auto listener = transport::LinkListener::Listen(
        loop_.loop(), {transport::LinkKind::kTcp, "127.0.0.1:0"}, &tickets_, {},
        [this](const std::string&, std::unique_ptr<transport::Link> link) {
          links_.push_back(std::move(link));
        });
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    auto server = rpc::Server::Start({.listen = "127.0.0.1:0"}, "expert", {this});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    loop_.Start();
  }
  ~Unreachable() {
    server_.reset();
    loop_.Stop();
  }

  const std::string& address() const { return server_->address(); }
  void AnswerAlways(pb::LinkKind kind) { always_ = kind; }
  // From another host: tcp or nothing, and the first few of its tcp addresses are dead.
  void AnswerFromElsewhere(int dead) {
    dead_ = dead;
    elsewhere_ = true;
  }
  std::vector<std::vector<int>> Offers() {
    absl::MutexLock lock(&mu_);
    return offers_;
  }

  grpc::ServerUnaryReactor* OpenLink(grpc::CallbackServerContext* context,
                                     const pb::OpenLinkRequest* request,
                                     pb::OpenLinkResponse* response) override {
    {
      absl::MutexLock lock(&mu_);
      offers_.emplace_back(request->offered().begin(), request->offered().end());
    }
    auto* reactor = context->DefaultReactor();
    const auto& offered = request->offered();
    if (elsewhere_ && std::count(offered.begin(), offered.end(), pb::LINK_KIND_TCP) == 0) {
      reactor->Finish({grpc::StatusCode::FAILED_PRECONDITION, "no common kind"});
      return reactor;
    }
    const int kind = elsewhere_                             ? pb::LINK_KIND_TCP
                     : always_ != pb::LINK_KIND_UNSPECIFIED ? always_.load()
                                                            : request->offered(0);
    const transport::Ticket ticket = tickets_.Issue(request->peer());
    response->set_name(name_);
    response->set_ticket(ticket.data(), ticket.size());
    response->set_endpoint(dead_-- > 0                  ? "tcp:127.0.0.1:1"
                           : kind == pb::LINK_KIND_TCP  ? listener_->endpoint().ToString()
                           : kind == pb::LINK_KIND_UNIX ? "unix:@atoll-nobody-listens"
                                                        : "shm:@atoll-nobody-listens");
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  LoopThread loop_;
  const std::string name_;
  std::atomic<pb::LinkKind> always_{pb::LINK_KIND_UNSPECIFIED};
  std::atomic<bool> elsewhere_{false};
  std::atomic<int> dead_{0};
  transport::TicketBook tickets_;
  std::unique_ptr<transport::LinkListener> listener_;
  std::vector<std::unique_ptr<transport::Link>> links_;  // on the loop
  absl::Mutex mu_;
  std::vector<std::vector<int>> offers_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<rpc::Server> server_;
};

LinkPeer PeerOf(const std::string& name, const Echo& echo, uint64_t incarnation = 1) {
  return {.name = name, .grpc_address = echo.address(), .incarnation = incarnation};
}

TEST(LinkHandshakeTest, OneHostMeansSharedMemoryElseTcp) {
  Echo echo("expert-0");
  Caller near;
  near.SetPeers({PeerOf("expert-0", echo)});
  EXPECT_TRUE(Eventually([&] { return near.KindTo("expert-0") == "shm"; }));
  EXPECT_TRUE(near.Echoes("expert-0"));
  LinkIdentity elsewhere = Identity("router-1");
  elsewhere.host_id = "another host";
  Caller far(elsewhere);
  far.SetPeers({PeerOf("expert-0", echo)});
  EXPECT_TRUE(Eventually([&] { return far.KindTo("expert-0") == "tcp"; }));
  EXPECT_TRUE(far.Echoes("expert-0"));
  EXPECT_EQ(echo.Peers(), (std::vector<std::string>{"router-0", "router-1"}));
}

TEST(LinkHandshakeTest, TheCallersOrderOfKindsCounts) {
  Echo echo("expert-0");
  Caller caller(Identity("router-0"), {transport::LinkKind::kTcp, transport::LinkKind::kUnix});
  caller.SetPeers({PeerOf("expert-0", echo)});
  EXPECT_TRUE(Eventually([&] { return caller.KindTo("expert-0") == "tcp"; }));
}

TEST(LinkHandshakeTest, UnixWhereOneSideHasNoSharedMemory) {
  Echo echo("expert-0", {.links = {"unix", "tcp"}});
  Caller caller;
  caller.SetPeers({PeerOf("expert-0", echo)});
  EXPECT_TRUE(Eventually([&] { return caller.KindTo("expert-0") == "unix"; }));
  EXPECT_TRUE(caller.Echoes("expert-0"));
}

// Its unix sockets are named, but cannot be reached: as from another mount namespace.
TEST(LinkHandshakeTest, AKindThatCannotConnectIsLeftOut) {
  Unreachable service(Identity("expert-0"));
  Caller caller;
  caller.SetPeers({{.name = "expert-0", .grpc_address = service.address(), .incarnation = 1}});
  EXPECT_TRUE(Eventually([&] { return caller.KindTo("expert-0") == "tcp"; }));
  using Kinds = std::vector<int>;
  const Kinds all = {pb::LINK_KIND_SHM, pb::LINK_KIND_UNIX, pb::LINK_KIND_TCP};
  const Kinds without_shm = {pb::LINK_KIND_UNIX, pb::LINK_KIND_TCP};
  EXPECT_EQ(service.Offers(),
            (std::vector<Kinds>{all, all, without_shm, without_shm, {pb::LINK_KIND_TCP}}));
}

// Where tcp is all there is, it is tried again: what is left without it would be refused for ever.
TEST(LinkHandshakeTest, AKindLeftOutComesBackWhereTheRestIsRefused) {
  Unreachable service(Identity("expert-0"));
  service.AnswerFromElsewhere(2);
  Caller caller;
  caller.SetPeers({{.name = "expert-0", .grpc_address = service.address(), .incarnation = 1}});
  EXPECT_TRUE(Eventually([&] { return caller.KindTo("expert-0") == "tcp"; }));
  using Kinds = std::vector<int>;
  const Kinds all = {pb::LINK_KIND_SHM, pb::LINK_KIND_UNIX, pb::LINK_KIND_TCP};
  const Kinds without_tcp = {pb::LINK_KIND_SHM, pb::LINK_KIND_UNIX};
  EXPECT_EQ(service.Offers(), (std::vector<Kinds>{all, all, without_tcp, all}));
}

TEST(LinkHandshakeTest, AKindThatWasNotOfferedIsNotTaken) {
  Unreachable service(Identity("expert-0"));
  service.AnswerAlways(pb::LINK_KIND_TCP);
  Caller caller(Identity("router-0"), {transport::LinkKind::kUnix});
  caller.SetPeers({{.name = "expert-0", .grpc_address = service.address(), .incarnation = 1}});
  EXPECT_TRUE(Eventually([&] { return service.Offers().size() >= 2; }));
  EXPECT_EQ(caller.num_made(), 0);
}

TEST(LinkHandshakeTest, AnExpertOnEveryInterfaceIsReachedWhereGrpcReachedIt) {
  Echo echo("expert-0", {.listen = "0.0.0.0:0", .links = {"tcp"}, .insecure = true});
  const std::string port = echo.address().substr(echo.address().find(':'));
  Caller caller;
  caller.SetPeers({{.name = "expert-0", .grpc_address = "127.0.0.1" + port, .incarnation = 1}});
  EXPECT_TRUE(Eventually([&] { return caller.KindTo("expert-0") == "tcp"; }));
  EXPECT_TRUE(caller.Echoes("expert-0"));
}

TEST(LinkHandshakeTest, ALinkThatDiesIsMadeAgain) {
  Echo echo("expert-0");
  Caller caller;
  caller.SetPeers({PeerOf("expert-0", echo)});
  ASSERT_TRUE(Eventually([&] { return caller.num_made() == 1; }));
  echo.CloseAll();
  EXPECT_TRUE(Eventually([&] { return caller.num_made() == 2; }, absl::Seconds(5)));
  EXPECT_TRUE(caller.Echoes("expert-0"));
}

TEST(LinkHandshakeTest, ARestartedPeerIsLinkedAgainWithinASecond) {
  auto echo = std::make_unique<Echo>("expert-0");
  const std::string address = echo->address();
  Caller caller;
  caller.SetPeers({PeerOf("expert-0", *echo, 1)});
  ASSERT_TRUE(Eventually([&] { return !caller.KindTo("expert-0").empty(); }));
  echo.reset();
  ASSERT_TRUE(Eventually([&] { return caller.KindTo("expert-0").empty(); }));
  echo = std::make_unique<Echo>("expert-0", NodeOptions{.listen = address});
  const absl::Duration restarted = Uptime();
  ASSERT_TRUE(Eventually([&] { return !caller.KindTo("expert-0").empty(); }));
  EXPECT_LT(Uptime() - restarted, absl::Seconds(1));
  EXPECT_TRUE(caller.Echoes("expert-0"));
}

TEST(LinkHandshakeTest, APeerNotWantedOrOfAnotherIncarnationIsDropped) {
  Echo echo("expert-0");
  Caller caller;
  caller.SetPeers({PeerOf("expert-0", echo, 1)});
  ASSERT_TRUE(Eventually([&] { return caller.num_made() == 1; }));
  caller.SetPeers({PeerOf("expert-0", echo, 2)});
  ASSERT_TRUE(
      Eventually([&] { return caller.num_made() == 2 && !caller.KindTo("expert-0").empty(); }));
  caller.SetPeers({});
  EXPECT_EQ(caller.KindTo("expert-0"), "");
  EXPECT_EQ(caller.num_made(), 2);
}

TEST(LinkHandshakeTest, AnotherNodeAtThatAddressIsNoPeer) {
  Echo echo("expert-1");
  Caller caller;
  caller.SetPeers({PeerOf("expert-0", echo), PeerOf("expert-1", echo)});
  EXPECT_TRUE(Eventually([&] { return !caller.KindTo("expert-1").empty(); }));
  EXPECT_EQ(caller.KindTo("expert-0"), "");
}

pb::OpenLinkRequest GoodRequest() {
  pb::OpenLinkRequest request;
  request.set_peer("router-0");
  request.set_protocol_version(transport::kProtocolVersion);
  request.set_revision("rev-a");
  request.set_numerics_id("bf16/1/cpu");
  request.set_host_id(HostId());
  request.add_offered(pb::LINK_KIND_UNIX);
  return request;
}

TEST(LinkServiceTest, RefusesOtherVersionsNamingBoth) {
  Echo echo("expert-0");
  ASSERT_TRUE(echo.service().Open(GoodRequest()).ok());
  struct Case {
    std::function<void(pb::OpenLinkRequest*)> change;
    std::vector<std::string> named;
  };
  const std::vector<Case> cases = {
      {[](auto* request) { request->set_protocol_version(9); }, {"9", "1"}},
      {[](auto* request) { request->set_revision("rev-b"); }, {"rev-b", "rev-a"}},
      {[](auto* request) { request->set_numerics_id("x/1/cpu"); }, {"x/1/cpu", "bf16/1/cpu"}},
      {[](auto* request) { request->set_host_id("elsewhere"); },
       {"LINK_KIND_UNIX", "LINK_KIND_TCP"}},
      {[](auto* request) { request->set_offered(0, pb::LINK_KIND_INPROC); },
       {"LINK_KIND_INPROC", "LINK_KIND_TCP"}},
      {[](auto* request) { request->clear_offered(); }, {"LINK_KIND_TCP"}},
  };
  for (const Case& c : cases) {
    pb::OpenLinkRequest request = GoodRequest();
    c.change(&request);
    const Status status = echo.service().Open(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    for (const std::string& value : c.named) {
      EXPECT_NE(status.message().find(value), std::string::npos) << status << " lacks " << value;
    }
  }
  echo.service().SetAccepting(false);
  EXPECT_EQ(echo.service().Open(GoodRequest()).status().code(), absl::StatusCode::kUnavailable);
}

// What a connection with `ticket` comes to.
Status ConnectWith(const std::string& endpoint, const std::string& ticket_bytes) {
  transport::Ticket ticket;
  std::copy(ticket_bytes.begin(), ticket_bytes.end(), ticket.begin());
  transport::EventLoop loop;
  std::optional<Status> result;
  transport::ConnectLink(&loop, *transport::ParseEndpoint(endpoint), ticket, {}, absl::Seconds(10),
                         [&](auto link) { result = link.status(); });
  const absl::Duration give_up = Uptime() + absl::Seconds(20);
  while (!result.has_value() && Uptime() < give_up) loop.RunOnce(absl::Milliseconds(100));
  return result.value_or(absl::DeadlineExceededError("no answer"));
}

TEST(LinkServiceTest, ATicketWorksOnceAndOnlyTheRightOne) {
  Echo echo("expert-0");
  const auto opened = echo.service().Open(GoodRequest());
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::string wrong = opened->ticket();
  wrong[0] ^= 1;
  EXPECT_EQ(ConnectWith(opened->endpoint(), wrong).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(ConnectWith(opened->endpoint(), opened->ticket()).ok());
  EXPECT_EQ(ConnectWith(opened->endpoint(), opened->ticket()).code(),
            absl::StatusCode::kPermissionDenied);
}

TEST(LinkAcceptorTest, DataPortsObeyThePlaintextRuleAndMayBeTaken) {
  LoopThread loop("test");
  const auto listen = [&](const NodeOptions& options) {
    return LinkAcceptor::Listen(loop.loop(), options, Identity("expert-0"), [](auto&, auto) {})
        .status();
  };
  EXPECT_EQ(listen({.data_listen = "0.0.0.0:0"}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(listen({.data_listen = "0.0.0.0:0", .insecure = true}).ok());
  EXPECT_TRUE(listen({.links = {"unix"}, .data_listen = "0.0.0.0:0"}).ok());
  EXPECT_EQ(listen({.links = {"inproc"}}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(listen({.links = {"pigeon"}}).code(), absl::StatusCode::kInvalidArgument);
  Echo echo("expert-1");
  EXPECT_EQ(listen({.data_listen = echo.data_address()}).code(), absl::StatusCode::kAlreadyExists);
}

TEST(LinkSpinTest, AsToldElseOnlyWhereCoresAreFree) {
  EXPECT_EQ(LinkSpin({.link_spin_us = 7}, 1), absl::Microseconds(7));
  EXPECT_EQ(LinkSpin({.link_spin_us = 0, .threads = 1}, 64), absl::ZeroDuration());
  EXPECT_EQ(LinkSpin({}, 64), absl::ZeroDuration()) << "every core computes";
  EXPECT_EQ(LinkSpin({.threads = 7}, 8), absl::ZeroDuration());
  EXPECT_EQ(LinkSpin({.threads = 6}, 8), absl::Microseconds(50));
}

TEST(NodeInfoTest, SaysWhereOthersReachIt) {
  EXPECT_EQ(*AdvertisedAddress({}, "127.0.0.1:7"), "127.0.0.1:7");
  EXPECT_EQ(*AdvertisedAddress({.advertise = "node-3:9"}, "0.0.0.0:7"), "node-3:9");
  EXPECT_EQ(*AdvertisedAddress({.advertise = "node-3:0"}, "0.0.0.0:7"), "node-3:7");
  // A pod's address is put in brackets whichever kind it is.
  EXPECT_EQ(*AdvertisedAddress({.advertise = "[10.0.0.1]:9"}, "0.0.0.0:7"), "10.0.0.1:9");
  EXPECT_EQ(*AdvertisedAddress({.advertise = "[fd00::5]:9"}, "[::]:7"), "[fd00::5]:9");
  EXPECT_EQ(AdvertisedAddress({}, "0.0.0.0:7").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(AdvertisedAddress({.advertise = "7"}, "0.0.0.0:7").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(NodeInfoTest, EachStartIsAnotherIncarnation) {
  const pb::NodeInfo a = MakeNodeInfo({.name = "e"}, pb::NODE_ROLE_EXPERT, "rev", "id");
  const pb::NodeInfo b = MakeNodeInfo({.name = "e"}, pb::NODE_ROLE_EXPERT, "rev", "id");
  EXPECT_NE(a.incarnation(), b.incarnation());
  EXPECT_EQ(a.host_id(), b.host_id());
  EXPECT_FALSE(a.host_id().empty());
  EXPECT_EQ(MakeNodeInfo({}, pb::NODE_ROLE_EXPERT, "rev", "id").name().substr(0, 7), "expert-");
}

}  // namespace
}  // namespace atl::cluster
