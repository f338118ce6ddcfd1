#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>

#include "rpc/channel.h"
#include "test_nodes.h"

namespace atl::cluster {
namespace {

TEST(MembershipTest, ANodeIsInTheViewWhileItLives) {
  TestRouter router({});
  auto expert =
      std::make_unique<TestNode>("expert-0", pb::NODE_ROLE_EXPERT, std::vector{router.address()});
  TestNode attention("attention-0", pb::NODE_ROLE_ATTENTION, {router.address()});
  EXPECT_TRUE(Eventually([&] { return attention.Sees({"attention-0", "expert-0", "router-0"}); }));
  EXPECT_TRUE(Eventually([&] { return expert->Sees({"attention-0", "expert-0", "router-0"}); }));
  EXPECT_EQ(router.Names(), (std::vector<std::string>{"attention-0", "expert-0", "router-0"}));
  expert.reset();
  EXPECT_TRUE(Eventually([&] { return attention.Sees({"attention-0", "router-0"}); }));
  EXPECT_EQ(router.Names(), (std::vector<std::string>{"attention-0", "router-0"}));
}

TEST(MembershipTest, ChangesOfStateReachTheRouter) {
  TestRouter router({});
  TestNode expert("expert-0", pb::NODE_ROLE_EXPERT, {router.address()});
  ASSERT_TRUE(Eventually([&] { return router.Names().size() == 2; }));
  EXPECT_EQ(router.Missing(), 18);
  expert.Change(
      [](pb::NodeState* state) { *state->mutable_holds() = ToProto({{0, 1}, {0, 8}, {1, 0}}); });
  EXPECT_TRUE(Eventually([&] { return router.Missing() == 15; }));
}

TEST(MembershipTest, JoiningOneRouterMeansJoiningAll) {
  TestRouter first({.name = "router-0"});
  TestRouter second({.name = "router-1", .rank = 1, .join = {first.address()}});
  TestNode expert("expert-0", pb::NODE_ROLE_EXPERT, {first.address()});
  EXPECT_TRUE(Eventually([&] {
    return second.Names() ==
           std::vector<std::string>{"expert-0", "router-1"};  // first was not told of second
  }));
  first.FollowRouters();
  EXPECT_TRUE(Eventually([&] { return second.Names().size() == 3 && first.Names().size() == 3; }));
  EXPECT_TRUE(Eventually([&] { return expert.client().num_routers() == 2; }));
}

TEST(MembershipTest, ANodeIsThereAsLongAsAnyRouterListsIt) {
  TestRouter first({.name = "router-0"});
  auto second = std::make_unique<TestRouter>(TestRouter::Options{.name = "router-1", .rank = 1});
  TestNode both("attention-0", pb::NODE_ROLE_ATTENTION, {first.address(), second->address()});
  TestNode expert("expert-0", pb::NODE_ROLE_EXPERT, {first.address(), second->address()});
  ASSERT_TRUE(
      Eventually([&] { return both.Sees({"attention-0", "expert-0", "router-0", "router-1"}); }));
  second.reset();
  EXPECT_TRUE(Eventually([&] { return both.Sees({"attention-0", "expert-0", "router-0"}); }));
  EXPECT_TRUE(Eventually([&] { return both.client().num_routers() == 1; }));
}

TEST(MembershipTest, ARestartedRouterIsCompleteWithinASecondOrTwo) {
  auto router = std::make_unique<TestRouter>(TestRouter::Options{});
  const std::string address = router->address();
  TestNode expert("expert-0", pb::NODE_ROLE_EXPERT, {address});
  TestNode attention("attention-0", pb::NODE_ROLE_ATTENTION, {address});
  ASSERT_TRUE(Eventually([&] { return router->Names().size() == 3; }));
  router.reset();
  EXPECT_TRUE(Eventually([&] { return expert.Seen().empty(); }));
  router = std::make_unique<TestRouter>(TestRouter::Options{.listen = address});
  EXPECT_TRUE(Eventually([&] { return router->Names().size() == 3; }, absl::Seconds(5)));
  EXPECT_TRUE(Eventually([&] { return expert.Sees({"attention-0", "expert-0", "router-0"}); }));
}

TEST(MembershipTest, ARestartedNodeTakesItsOldPlace) {
  TestRouter router({});
  TestNode watcher("attention-0", pb::NODE_ROLE_ATTENTION, {router.address()});
  auto node =
      std::make_unique<TestNode>("expert-0", pb::NODE_ROLE_EXPERT, std::vector{router.address()});
  const auto sees_incarnation = [&](uint64_t incarnation) {
    const std::vector<std::string> seen = watcher.Seen();
    return std::find(seen.begin(), seen.end(), "expert-0/" + std::to_string(incarnation)) !=
           seen.end();
  };
  ASSERT_TRUE(Eventually([&] { return sees_incarnation(node->info().incarnation()); }));
  node.reset();
  node =
      std::make_unique<TestNode>("expert-0", pb::NODE_ROLE_EXPERT, std::vector{router.address()});
  EXPECT_TRUE(Eventually([&] { return sees_incarnation(node->info().incarnation()); }));
}

// Opens a stream by hand, announces once, and returns how it ended.
grpc::Status JoinOnce(const std::string& router, const pb::NodeInfo& info) {
  auto stub = pb::ClusterService::NewStub(rpc::MakeChannel(router));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(20));
  auto stream = stub->Join(&context);
  pb::JoinRequest request;
  *request.mutable_announcement()->mutable_info() = info;
  stream->Write(request);
  pb::JoinResponse response;
  while (stream->Read(&response)) {
  }
  return stream->Finish();
}

TEST(MembershipTest, ALivingNodesNameIsTaken) {
  TestRouter router({});
  TestNode node("expert-0", pb::NODE_ROLE_EXPERT, {router.address()});
  ASSERT_TRUE(Eventually([&] { return router.Names().size() == 2; }));
  const grpc::Status status =
      JoinOnce(router.address(), TestInfo("expert-0", pb::NODE_ROLE_EXPERT));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS) << status.error_message();
  EXPECT_EQ(router.state().snapshot()->nodes[0]->info().incarnation(), node.info().incarnation());
  EXPECT_EQ(JoinOnce(router.address(), TestInfo("router-0", pb::NODE_ROLE_ROUTER)).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
}

TEST(MembershipTest, AnotherModelNumericsOrProtocolIsRefusedNamingBoth) {
  TestRouter router({});
  struct Case {
    std::function<void(pb::NodeInfo*)> change;
    std::vector<std::string> named;
  };
  const std::vector<Case> cases = {
      {[](pb::NodeInfo* info) { info->set_revision("rev-b"); }, {"rev-a", "rev-b"}},
      {[](pb::NodeInfo* info) { info->set_numerics_id("reference/1/cpu"); },
       {"bf16/1/cpu", "reference/1/cpu"}},
      {[](pb::NodeInfo* info) { info->set_protocol_version(77); }, {"77", " 1"}},
  };
  for (const Case& c : cases) {
    pb::NodeInfo info = TestInfo("expert-0", pb::NODE_ROLE_EXPERT);
    c.change(&info);
    const grpc::Status status = JoinOnce(router.address(), info);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    for (const std::string& value : c.named) {
      EXPECT_NE(status.error_message().find(value), std::string::npos) << status.error_message();
    }
  }
  EXPECT_EQ(router.Names(), std::vector<std::string>{"router-0"});
}

TEST(MembershipTest, ASilentStreamIsADeadNode) {
  TestRouter router({.silence = absl::Milliseconds(300)});
  const grpc::Status status =
      JoinOnce(router.address(), TestInfo("expert-0", pb::NODE_ROLE_EXPERT));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  EXPECT_EQ(router.Names(), std::vector<std::string>{"router-0"});
}

TEST(MembershipTest, TwoAddressesOfOneRouterAreOneRouter) {
  TestRouter router({});
  const std::string port = router.address().substr(router.address().find(':'));
  TestNode node("expert-0", pb::NODE_ROLE_EXPERT, {"127.0.0.1" + port, "localhost" + port});
  ASSERT_TRUE(Eventually([&] { return node.Sees({"expert-0", "router-0"}); }));
  TestNode other("expert-1", pb::NODE_ROLE_EXPERT, {router.address()});
  // The second stream's end must not be taken for the node's.
  ASSERT_TRUE(Eventually([&] { return node.Sees({"expert-0", "expert-1", "router-0"}); }));
  EXPECT_TRUE(Eventually([&] { return node.client().num_routers() == 1; }));
  EXPECT_EQ(router.Names(), (std::vector<std::string>{"expert-0", "expert-1", "router-0"}));
}

TEST(MembershipTest, RoutersAreFoundByNameAndInFilesThatChange) {
  TestRouter first({.name = "router-0"}), second({.name = "router-1", .rank = 1});
  const std::string port = first.address().substr(first.address().find(':') + 1);
  TestNode by_name("expert-0", pb::NODE_ROLE_EXPERT, {"dns:localhost:" + port});
  EXPECT_TRUE(Eventually([&] { return by_name.Sees({"expert-0", "router-0"}); }));

  const std::string path = ::testing::TempDir() + "/routers-" + std::to_string(RandomId());
  TestNode by_file("expert-1", pb::NODE_ROLE_EXPERT, {"file:" + path});  // not there yet
  std::ofstream(path) << "# routers\n\n" << first.address() << "\n";
  EXPECT_TRUE(Eventually([&] { return by_file.Sees({"expert-0", "expert-1", "router-0"}); }));
  std::ofstream(path, std::ios::app) << second.address() << "\n";
  EXPECT_TRUE(
      Eventually([&] { return by_file.Sees({"expert-0", "expert-1", "router-0", "router-1"}); }));
  EXPECT_EQ(std::remove(path.c_str()), 0);
}

TEST(MembershipTest, BadEntriesAndPlaintextElsewhereAreRefusedAtOnce) {
  const auto start = [](const std::string& entry) {
    return JoinClient::Start({.self = TestInfo("expert-0", pb::NODE_ROLE_EXPERT),
                              .join = {entry},
                              .state = [] { return pb::NodeState(); }})
        .status();
  };
  EXPECT_EQ(start("router").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("dns:router").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("router:0").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("10.0.0.1:5000").code(), absl::StatusCode::kFailedPrecondition);
}

TEST(MembershipTest, CommandsOfTheHighestTermAreObeyed) {
  TestRouter first({.name = "router-0"}), second({.name = "router-1", .rank = 1});
  TestNode node("expert-0", pb::NODE_ROLE_EXPERT, {first.address(), second.address()});
  ASSERT_TRUE(Eventually([&] { return node.client().num_routers() == 2; }));
  const auto command = [](uint64_t term, const std::string& planner, int32_t expert) {
    pb::ExpertCommand command;
    command.set_term(term);
    command.set_planner(planner);
    *command.mutable_target() = ToProto({{0, expert}});
    return command;
  };
  first.service().SendCommand("expert-0", command(7, "router-0", 1));
  ASSERT_TRUE(Eventually([&] { return node.LastCommand().term() == 7; }));
  second.service().SendCommand("expert-0", command(6, "router-1", 2));  // an older term
  second.service().SendCommand("nobody", command(9, "router-1", 2));
  first.service().SendCommand("expert-0", command(7, "router-0", 3));
  ASSERT_TRUE(Eventually([&] { return node.Holds().size() == 2; }));
  EXPECT_EQ(node.Holds(), (std::vector<LayerExpert>{{0, 1}, {0, 3}}));
  second.service().SendCommand("expert-0", command(8, "router-1", 4));
  ASSERT_TRUE(Eventually([&] { return node.LastCommand().term() == 8; }));
  EXPECT_EQ(node.LastCommand().planner(), "router-1");
}

TEST(MembershipTest, TheSnapshotTellsPlannerAndCoverage) {
  TestRouter router({});
  TestNode expert("expert-0", pb::NODE_ROLE_EXPERT, {router.address()});
  expert.Change([](pb::NodeState* state) { *state->mutable_holds() = ToProto({{0, 0}, {1, 7}}); });
  ASSERT_TRUE(Eventually([&] { return router.Missing() == 16; }));
  auto stub = pb::ClusterService::NewStub(rpc::MakeChannel(router.address()));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  pb::GetSnapshotResponse snapshot;
  ASSERT_TRUE(stub->GetSnapshot(&context, {}, &snapshot).ok());
  EXPECT_EQ(snapshot.planner(), "router-0");
  EXPECT_EQ(snapshot.model_layers(), 2);
  EXPECT_EQ(snapshot.missing_experts(), 16);
  EXPECT_EQ(snapshot.view().router(), "router-0");
  EXPECT_EQ(snapshot.view().nodes_size(), 2);
}

}  // namespace
}  // namespace atl::cluster
