// Routers and nodes of the membership protocol without a model: real gRPC on loopback.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "cluster/cluster_service.h"
#include "cluster/host_id.h"
#include "cluster/join_client.h"
#include "cluster/planner_thread.h"
#include "rpc/server.h"
#include "tests/support/eventually.h"

namespace atl::cluster {

using testing::Eventually;

inline pb::NodeInfo TestInfo(const std::string& name, pb::NodeRole role) {
  pb::NodeInfo info;
  info.set_name(name);
  info.set_incarnation(RandomId());
  info.set_role(role);
  info.set_grpc_address("127.0.0.1:1");  // nobody calls it
  info.set_revision("rev-a");
  info.set_numerics_id("bf16/1/cpu");
  info.set_protocol_version(1);
  return info;
}

// 2 layers of 8 routed experts and a shared one, a byte each.
inline ModelExperts TestModel() {
  return {.moe_layers = {true, true},
          .num_routed = 8,
          .has_shared = true,
          .routed_bytes = 1,
          .shared_bytes = 1};
}

// The membership of a router: state, service, a stream to every other router, a planner.
class TestRouter {
 public:
  struct Options {
    std::string name = "router-0";
    uint32_t rank = 0;
    std::string listen = "127.0.0.1:0";
    std::vector<std::string> join;
    bool planner = false;
    absl::Duration silence = absl::Seconds(3);
  };

  explicit TestRouter(const Options& options) {
    info_ = TestInfo(options.name, pb::NODE_ROLE_ROUTER);
    info_.set_rank(options.rank);
    service_ = std::make_unique<ClusterService>(&state_,
                                                ClusterServiceOptions{.router = options.name,
                                                                      .revision = "rev-a",
                                                                      .numerics_id = "bf16/1/cpu",
                                                                      .protocol_version = 1,
                                                                      .model = TestModel(),
                                                                      .silence = options.silence});
    auto server = rpc::Server::Start({.listen = options.listen}, "router", {service_.get()});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    info_.set_grpc_address(server_->address());
    auto join = JoinClient::Start(
        {.self = info_, .join = options.join, .state = [this] { return State(); }});
    EXPECT_TRUE(join.ok()) << join.status();
    join_ = *std::move(join);
    AnnounceSelf();
    if (!options.planner) return;
    planner_ = std::make_unique<PlannerThread>(
        &state_,
        PlannerOptions{.router = options.name,
                       .model = TestModel(),
                       .settle = absl::Milliseconds(50),
                       .restart_wait = absl::Milliseconds(300),
                       .repeat = absl::Milliseconds(200)},
        [this](const std::string& node, const pb::ExpertCommand& command) {
          service_->SendCommand(node, command);
        },
        [this] { AnnounceSelf(); });
  }

  ~TestRouter() {
    planner_.reset();
    join_.reset();
    service_->Stop();
    server_.reset();
  }

  const std::string& address() const { return server_->address(); }
  const ClusterState& state() const { return state_; }
  ClusterService& service() { return *service_; }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& node : state_.snapshot()->nodes) names.push_back(node->info().name());
    return names;
  }
  // What a node's routers are known from: as RouterServer does.
  void FollowRouters() {
    std::vector<std::string> routers;
    for (const auto& node : state_.snapshot()->nodes) {
      if (node->info().role() == pb::NODE_ROLE_ROUTER && node->info().name() != info_.name()) {
        routers.push_back(node->info().grpc_address());
      }
    }
    join_->AlsoJoin(routers);
  }
  int64_t Missing() const {
    const auto snapshot = state_.snapshot();
    return MakePlacement(snapshot->nodes, TestModel(), snapshot->version)->MissingExperts();
  }

 private:
  pb::NodeState State() {
    pb::NodeState state;
    absl::MutexLock lock(&mu_);
    if (planner_ != nullptr) state.set_term(planner_->term());
    return state;
  }
  void AnnounceSelf() {
    pb::Announcement announcement;
    *announcement.mutable_info() = info_;
    *announcement.mutable_state() = State();
    EXPECT_TRUE(state_.Announce(announcement).ok());
    join_->StateChanged();
  }

  pb::NodeInfo info_;
  ClusterState state_;
  std::unique_ptr<ClusterService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<JoinClient> join_;
  absl::Mutex mu_;
  std::unique_ptr<PlannerThread> planner_;
};

// A node that obeys: it holds what the last command's target says, and gives up what that command
// allows.
class TestNode {
 public:
  TestNode(const std::string& name, pb::NodeRole role, std::vector<std::string> join)
      : TestNode(TestInfo(name, role), std::move(join)) {}

  TestNode(const pb::NodeInfo& info, std::vector<std::string> join) : info_(info) {
    info_.set_routed_expert_bytes(1);
    info_.set_shared_expert_bytes(1);
    JoinOptions options{
        .self = info_,
        .join = std::move(join),
        .state = [this] { return State(); },
        .on_view = [this](const NodeList& nodes) { OnView(nodes); },
        .on_command = [this](const pb::ExpertCommand& command) { OnCommand(command); },
        .resolve_interval = absl::Milliseconds(20)};
    auto client = JoinClient::Start(std::move(options));
    EXPECT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    absl::MutexLock lock(&mu_);
    joined_ = client_.get();
    joined_->StateChanged();  // commands may have come before
  }
  ~TestNode() {
    {
      absl::MutexLock lock(&mu_);
      joined_ = nullptr;
    }
    client_.reset();
  }

  const pb::NodeInfo& info() const { return info_; }
  JoinClient& client() { return *client_; }

  // It cannot load experts of this layer from now on.
  void BreakLayer(int32_t layer) {
    absl::MutexLock lock(&mu_);
    unreadable_layer_ = layer;
  }

  // "name/incarnation" of the nodes last told.
  std::vector<std::string> Seen() {
    absl::MutexLock lock(&mu_);
    return seen_;
  }
  bool Sees(const std::vector<std::string>& names) {
    std::vector<std::string> seen;
    for (const std::string& node : Seen()) seen.push_back(node.substr(0, node.find('/')));
    return seen == names;
  }
  pb::ExpertCommand LastCommand() {
    absl::MutexLock lock(&mu_);
    return command_;
  }
  std::vector<LayerExpert> Holds() {
    absl::MutexLock lock(&mu_);
    return FromProto(state_.holds());
  }
  void Change(const std::function<void(pb::NodeState*)>& change) {
    absl::MutexLock lock(&mu_);
    change(&state_);
    if (joined_ != nullptr) joined_->StateChanged();
  }

 private:
  pb::NodeState State() {
    absl::MutexLock lock(&mu_);
    return state_;
  }
  void OnView(const NodeList& nodes) {
    absl::MutexLock lock(&mu_);
    seen_.clear();
    for (const auto& node : nodes) {
      seen_.push_back(node->info().name() + "/" + std::to_string(node->info().incarnation()));
    }
  }
  void OnCommand(const pb::ExpertCommand& command) {
    Change([&](pb::NodeState* state) {
      command_ = command;
      const std::vector<LayerExpert> target = FromProto(command.target());
      const std::vector<LayerExpert> may_unload = FromProto(command.may_unload());
      std::set<LayerExpert> holds;
      for (const LayerExpert id : FromProto(state->holds())) holds.insert(id);
      std::set<LayerExpert> failed;
      for (const LayerExpert id : FromProto(state->unreadable())) failed.insert(id);
      for (const LayerExpert id : target) {
        const bool can_read = id.layer != unreadable_layer_ || holds.contains(id);
        (can_read ? holds : failed).insert(id);
      }
      *state->mutable_unreadable() = ToProto({failed.begin(), failed.end()});
      for (const LayerExpert id : may_unload) holds.erase(id);
      *state->mutable_holds() = ToProto({holds.begin(), holds.end()});
      state->set_term(command.term());
    });
  }

  pb::NodeInfo info_;
  absl::Mutex mu_;
  int32_t unreadable_layer_ = -1;
  pb::NodeState state_;
  std::vector<std::string> seen_;
  pb::ExpertCommand command_;
  JoinClient* joined_ = nullptr;  // under mu_; null while `client_` comes and goes
  std::unique_ptr<JoinClient> client_;
};

}  // namespace atl::cluster
