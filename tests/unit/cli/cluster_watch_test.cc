#include "cli/cluster_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace atl::cli {
namespace {

namespace pb = atollpb::v1;
using ::testing::HasSubstr;

// A router's answer with itself ready, one attention node with 3 sequences and one expert node with
// 5 experts.
pb::GetSnapshotResponse Answer(const std::string& router) {
  pb::GetSnapshotResponse answer;
  answer.mutable_view()->set_router(router);
  auto* self = answer.mutable_view()->add_nodes();
  self->mutable_info()->set_name(router);
  self->mutable_state()->set_ready(true);
  auto* attention = answer.mutable_view()->add_nodes();
  attention->mutable_info()->set_name("attention-0");
  attention->mutable_state()->set_running_sequences(2);
  attention->mutable_state()->set_waiting_sequences(1);
  auto* expert = answer.mutable_view()->add_nodes();
  expert->mutable_info()->set_name("expert-0");
  for (int experts : {2, 3}) {
    auto* layer = expert->mutable_state()->add_holds();
    for (int i = 0; i < experts; ++i) layer->add_experts(i);
  }
  return answer;
}

const std::vector<std::string> kNodes = {"attention-0", "expert-0"};

TEST(SummarizeClusterTest, IsCompleteWhenEveryRouterIsReadyAndSeesEverybody) {
  const auto a = Answer("router-0"), b = Answer("router-1");
  const ClusterState state = SummarizeCluster({"x:1", "y:2"}, {&a, &b}, kNodes);
  EXPECT_TRUE(state.complete) << state.waiting_for;
  EXPECT_EQ(state.holds.at("expert-0").experts, 5);
  EXPECT_EQ(state.holds.at("expert-0").sequences, 0);
  EXPECT_EQ(state.holds.at("attention-0").sequences, 3);
}

TEST(SummarizeClusterTest, SaysWhatIsWaitedFor) {
  const auto a = Answer("router-0");
  auto missing = Answer("router-1");
  missing.set_missing_experts(4);
  EXPECT_THAT(SummarizeCluster({"x:1", "y:2"}, {&a, &missing}, kNodes).waiting_for,
              HasSubstr("y:2: 4 experts are being loaded"));
  auto unready = Answer("router-1");
  unready.mutable_view()->mutable_nodes(0)->mutable_state()->set_ready(false);
  EXPECT_THAT(SummarizeCluster({"x:1", "y:2"}, {&a, &unready}, kNodes).waiting_for,
              HasSubstr("y:2: not ready"));
  EXPECT_THAT(SummarizeCluster({"x:1"}, {&a}, {"attention-0", "expert-0", "expert-1"}).waiting_for,
              HasSubstr("expert-1 has not joined"));
  EXPECT_THAT(SummarizeCluster({"x:1", "y:2"}, {&a, nullptr}, kNodes).waiting_for,
              HasSubstr("y:2: does not answer"));
}

TEST(SummarizeClusterTest, OneLiveRouterIsEnoughToKnowWhatNodesHold) {
  const auto b = Answer("router-1");
  const ClusterState state = SummarizeCluster({"x:1", "y:2"}, {nullptr, &b}, kNodes);
  EXPECT_FALSE(state.complete);
  EXPECT_EQ(state.holds.at("expert-0").experts, 5);
}

}  // namespace
}  // namespace atl::cli
