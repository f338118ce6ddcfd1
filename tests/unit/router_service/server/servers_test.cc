#include "servers.h"

#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"

namespace atl {

std::string Health(const std::string& address, const std::string& service) {
  grpc::GenericStub stub(rpc::MakeChannel(address));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  const grpc::Slice slice(std::string("\x0a") + static_cast<char>(service.size()) + service);
  grpc::ByteBuffer request(&slice, 1), response;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status s) {
                   status = s;
                   done.Notify();
                 });
  done.WaitForNotification();  // bounded by the call's deadline
  grpc::Slice bytes;
  if (!status.ok() || !response.DumpToSingleSlice(&bytes).ok() || bytes.size() != 2)
    return status.error_message();
  return bytes.begin()[1] == 1 ? "SERVING" : "NOT_SERVING";
}

namespace {

class ServersTest : public ::testing::Test {
 protected:
  void StartAll(int experts, int min_replicas = 1) {
    router_ = StartRouter(0, {}, "127.0.0.1:0", min_replicas);
    ASSERT_NE(router_, nullptr);
    address_ = router_->addresses().grpc;
    for (int i = 0; i < experts; ++i) experts_.push_back(StartExpert(i, {address_}));
    attention_ = StartAttention(0, {address_});
    ASSERT_TRUE(Eventually(
        [&] { return Health(address_, "readiness") == "SERVING" && Balanced(address_, experts); }));
  }

  void ExpectGolden(const std::string& name = "p1") {
    const GoldenPrompt golden = LoadGoldenPrompt(name, 16);
    const Answer answer = Generate(address_, golden.prompt, 16);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.ids, golden.greedy);
  }

  std::string address_;
  std::unique_ptr<router::RouterServer> router_;
  std::vector<std::unique_ptr<expert::ExpertServer>> experts_;
  std::unique_ptr<attention::AttentionServer> attention_;
};

TEST_F(ServersTest, ARouterIsReadyWithCoverageAndAnAttentionNodeAndAnswersAsTheOracle) {
  router_ = StartRouter(0);
  address_ = router_->addresses().grpc;
  EXPECT_EQ(Health(address_, "liveness"), "SERVING");
  EXPECT_EQ(Health(address_, "readiness"), "NOT_SERVING");
  experts_.push_back(StartExpert(0, {address_}));
  experts_.push_back(StartExpert(1, {address_}));
  ASSERT_TRUE(Eventually([&] { return Balanced(address_, 2); }));
  EXPECT_EQ(Health(address_, "readiness"), "NOT_SERVING");
  EXPECT_EQ(Health(experts_[0]->addresses().grpc, "readiness"), "SERVING");
  EXPECT_EQ(Health(experts_[0]->addresses().grpc, "expert"), "SERVING");
  attention_ = StartAttention(0, {address_});
  ASSERT_TRUE(Eventually([&] { return Health(address_, "readiness") == "SERVING"; }));
  for (const char* name : {"p0", "p1", "p2"}) ExpectGolden(name);
}

TEST_F(ServersTest, StatisticsAndPlacementCanBeAskedFor) {
  StartAll(2);
  auto stub = pb::RouterService::NewStub(rpc::MakeChannel(address_));
  grpc::ClientContext placement_context, stats_context;
  rpc::SetDeadline(&placement_context, absl::Seconds(10));
  rpc::SetDeadline(&stats_context, absl::Seconds(10));
  pb::GetPlacementResponse placement;
  ASSERT_TRUE(stub->GetPlacement(&placement_context, {}, &placement).ok());
  EXPECT_EQ(placement.nodes_size(), 2);
  const pb::GetSnapshotResponse snapshot = Snapshot(address_);
  size_t held = 0, listed = 0;
  for (const pb::Announcement& node : snapshot.view().nodes()) {
    held += cluster::FromProto(node.state().holds()).size();
  }
  for (const pb::PlacementEntry& entry : placement.entries()) listed += entry.nodes_size();
  EXPECT_EQ(listed, held);

  ExpectGolden("p1");  // 7 tokens of prompt, 15 steps after the first token
  pb::GetDispatchStatsResponse stats;
  ASSERT_TRUE(stub->GetDispatchStats(&stats_context, {}, &stats).ok());
  uint64_t routed = 0, shared = 0;
  for (const pb::ExpertRows& rows : stats.experts())
    (rows.expert() == 16 ? shared : routed) += rows.rows();
  EXPECT_EQ(routed, shared * 6);  // v2_lite: 6 of 16 experts a row, and the shared one
  EXPECT_EQ(shared % (7 + 15), 0);
  EXPECT_GT(stats.calls(), 0);
  EXPECT_LE(stats.calls(), shared);  // a row a call at least
  EXPECT_EQ(stats.retries(), 0);
}

TEST_F(ServersTest, ALostExpertNodeIsReplacedByTheOthersAndBack) {
  StartAll(2);
  ExpectGolden();
  experts_.pop_back();  // stops at once
  ExpectGolden();       // waits for what is missing
  EXPECT_TRUE(Eventually([&] { return Balanced(address_, 1); }));
  experts_.push_back(StartExpert(1, {address_}));
  EXPECT_TRUE(Eventually([&] { return Balanced(address_, 2); }));
  ExpectGolden();
  EXPECT_EQ(Health(address_, "readiness"), "SERVING");
}

TEST_F(ServersTest, ADrainingExpertNodeHandsOverUnderLoad) {
  StartAll(2);
  const GoldenPrompt golden = LoadGoldenPrompt("p1", 32);
  std::atomic<bool> stop{false};
  std::atomic<int> answers{0};
  std::thread load([&] {
    while (!stop) {
      const Answer answer = Generate(address_, golden.prompt, 32);
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      EXPECT_EQ(answer.ids, golden.greedy);
      ++answers;
    }
  });
  EXPECT_TRUE(Eventually([&] { return answers > 0; }));
  std::thread watch([&] {
    while (!stop) EXPECT_TRUE(Covered(address_));
  });
  experts_[0]->DrainAndStop();
  stop = true;
  load.join();
  watch.join();
  EXPECT_TRUE(Eventually([&] { return Balanced(address_, 1); }));
  ExpectGolden();
}

TEST_F(ServersTest, ASecondRouterDispatchesAndTakesOver) {
  StartAll(2, 2);
  auto second = StartRouter(1, {address_});
  const std::string second_address = second->addresses().grpc;
  ASSERT_TRUE(Eventually([&] { return Health(second_address, "readiness") == "SERVING"; }));
  EXPECT_EQ(Snapshot(second_address).planner(), "router-0");
  router_->DrainAndStop();
  router_.reset();
  EXPECT_TRUE(Eventually([&] { return Snapshot(second_address).planner() == "router-1"; }));
  address_ = second_address;
  ExpectGolden();
  experts_.push_back(StartExpert(2, {second_address}));
  EXPECT_TRUE(Eventually([&] { return Balanced(second_address, 3); }));
}

TEST_F(ServersTest, ARestartedRouterFindsItsClusterAgain) {
  StartAll(2);
  const std::string address = address_;
  router_.reset();
  router_ = StartRouter(0, {}, address);
  ASSERT_NE(router_, nullptr);
  EXPECT_TRUE(Eventually([&] { return Health(address_, "readiness") == "SERVING"; }));
  ExpectGolden();
}

TEST_F(ServersTest, BudgetsThatCannotHoldTheModelMeanNoCoverageUntilTheyCan) {
  router_ = StartRouter(0);
  address_ = router_->addresses().grpc;
  experts_.push_back(StartExpert(0, {address_}, 1 << 20));
  ASSERT_TRUE(Eventually([&] { return Snapshot(address_).view().nodes_size() == 2; }));
  const pb::NodeInfo info = Snapshot(address_).view().nodes(0).info();
  EXPECT_EQ(info.memory_budget_bytes(), 1 << 20);
  EXPECT_GT(info.routed_expert_bytes(), 0);
  EXPECT_GT(info.shared_expert_bytes(), 0);
  EXPECT_FALSE(Covered(address_));
  experts_.push_back(StartExpert(1, {address_}));
  EXPECT_TRUE(Eventually([&] { return Covered(address_); }));
}

TEST_F(ServersTest, AnExpertNodeOfAnotherProfileStaysOut) {
  router_ = StartRouter(0);
  address_ = router_->addresses().grpc;
  expert::ExpertServerOptions options{.node = TestNodeOptions("expert-0", {address_})};
  options.node.profile = "bf16";
  auto other = Started(expert::ExpertServer::Start(options));
  experts_.push_back(StartExpert(1, {address_}));
  ASSERT_TRUE(Eventually([&] { return Covered(address_); }));
  EXPECT_EQ(Snapshot(address_).view().nodes_size(), 2);
}

// --- ExpertService ---

class ExpertServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_ = StartExpert(0, {});
    ASSERT_NE(server_, nullptr);
    stub_ = pb::ExpertService::NewStub(rpc::MakeChannel(server_->addresses().grpc));
  }
  template <typename Request, typename Response, typename Method>
  grpc::Status Call(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    rpc::SetDeadline(&context, absl::Seconds(30));
    return (stub_.get()->*method)(&context, request, response);
  }
  grpc::Status Load(std::vector<cluster::LayerExpert> experts, uint64_t term = 0) {
    pb::LoadRequest request;
    request.set_term(term);
    *request.mutable_experts() = cluster::ToProto(experts);
    pb::LoadResponse response;
    return Call(&pb::ExpertService::Stub::Load, request, &response);
  }
  grpc::Status Unload(std::vector<cluster::LayerExpert> experts) {
    pb::UnloadRequest request;
    *request.mutable_experts() = cluster::ToProto(experts);
    pb::UnloadResponse response;
    return Call(&pb::ExpertService::Stub::Unload, request, &response);
  }
  pb::DescribeResponse Describe() {
    pb::DescribeResponse response;
    EXPECT_TRUE(Call(&pb::ExpertService::Stub::Describe, pb::DescribeRequest(), &response).ok());
    return response;
  }
  pb::ForwardRequest Rows(int rows) {
    pb::ForwardRequest request;
    request.set_layer(1);
    const uint32_t hidden = Describe().hidden_size();
    std::vector<float> x(rows * hidden);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i * 37) % 101) / 50.0f - 1.0f;
    request.set_x(x.data(), x.size() * sizeof(float));
    return request;
  }
  grpc::Status Forward(const pb::ForwardRequest& request, std::string* out) {
    pb::ForwardResponse response;
    const grpc::Status status = Call(&pb::ExpertService::Stub::Forward, request, &response);
    *out = response.out();
    return status;
  }

  std::unique_ptr<expert::ExpertServer> server_;
  std::unique_ptr<pb::ExpertService::Stub> stub_;
};

TEST_F(ExpertServiceTest, LoadsDescribesAndGivesUp) {
  EXPECT_EQ(Describe().experts_size(), 0);
  ASSERT_TRUE(Load({{1, 0}, {1, 3}, {2, 16}}).ok());
  const pb::DescribeResponse held = Describe();
  ASSERT_EQ(held.experts_size(), 3);
  EXPECT_EQ(held.experts(1).expert(), 3);
  EXPECT_EQ(held.memory_held_bytes(),
            held.experts(0).bytes() + held.experts(1).bytes() + held.experts(2).bytes());
  EXPECT_TRUE(Unload({{1, 3}}).ok());
  EXPECT_EQ(Describe().experts_size(), 2);
  EXPECT_EQ(Unload({{1, 3}}).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Load({{0, 0}}).error_code(), grpc::StatusCode::INVALID_ARGUMENT);   // a dense layer
  EXPECT_EQ(Load({{1, 17}}).error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // no such expert
}

TEST_F(ExpertServiceTest, ForwardAnswersInTheOrderOfThePairs) {
  ASSERT_TRUE(Load({{1, 0}, {1, 3}, {1, 16}}).ok());
  pb::ForwardRequest all = Rows(3);
  const size_t row_bytes = all.x().size() / 3;
  const std::vector<std::pair<uint32_t, uint32_t>> pairs = {{2, 3}, {0, 16}, {1, 0},
                                                            {2, 0}, {0, 3},  {2, 3}};
  for (const auto& [row, expert] : pairs) {
    all.add_row(row);
    all.add_expert(expert);
  }
  std::string together;
  ASSERT_TRUE(Forward(all, &together).ok());
  ASSERT_EQ(together.size(), pairs.size() * row_bytes);
  for (size_t i = 0; i < pairs.size(); ++i) {  // each pair alone, its row sent alone
    pb::ForwardRequest one;
    one.set_layer(1);
    one.set_x(all.x().substr(pairs[i].first * row_bytes, row_bytes));
    one.add_row(0);
    one.add_expert(pairs[i].second);
    std::string alone;
    ASSERT_TRUE(Forward(one, &alone).ok());
    EXPECT_EQ(alone, together.substr(i * row_bytes, row_bytes)) << "pair " << i;
  }
  EXPECT_NE(together.substr(0, row_bytes), together.substr(row_bytes, row_bytes));
  EXPECT_EQ(together.substr(0, row_bytes),
            together.substr(5 * row_bytes, row_bytes));  // the same pair twice
}

TEST_F(ExpertServiceTest, ForwardRefusesWhatContradictsItself) {
  ASSERT_TRUE(Load({{1, 0}}).ok());
  const auto code = [&](const std::function<void(pb::ForwardRequest*)>& change) {
    pb::ForwardRequest request = Rows(2);
    request.add_row(1);
    request.add_expert(0);
    change(&request);
    std::string out;
    return Forward(request, &out).error_code();
  };
  EXPECT_EQ(code([](auto*) {}), grpc::StatusCode::OK);
  EXPECT_EQ(code([](auto* r) { r->set_expert(0, 5); }), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(code([](auto* r) { r->set_expert(0, 17); }), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto* r) { r->set_row(0, 2); }), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto* r) { r->add_row(0); }), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto* r) { r->set_x(r->x() + "abc"); }), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto* r) { r->clear_x(); }), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto* r) { r->set_layer(0); }), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto* r) { r->set_layer(999); }), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ExpertServiceTest, PortsInUseAndBadSettingsAreErrorsNotCrashes) {
  expert::ExpertServerOptions options{.node = TestNodeOptions("expert-1", {})};
  options.node.listen = server_->addresses().grpc;
  EXPECT_EQ(expert::ExpertServer::Start(options).status().code(), absl::StatusCode::kAlreadyExists);
  options.node = TestNodeOptions("expert-1", {});
  options.node.profile = "q3";
  EXPECT_EQ(expert::ExpertServer::Start(options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.node = TestNodeOptions("expert-1", {"nowhere"});
  EXPECT_EQ(expert::ExpertServer::Start(options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.node = TestNodeOptions("expert-1", {});
  options.node.listen = "0.0.0.0:0";
  EXPECT_EQ(expert::ExpertServer::Start(options).status().code(),
            absl::StatusCode::kFailedPrecondition);
  options.node = TestNodeOptions("expert-1", {});
  options.node.model_dir = "/nowhere";
  EXPECT_EQ(expert::ExpertServer::Start(options).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace atl
