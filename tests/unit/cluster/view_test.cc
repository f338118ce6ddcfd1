#include "cluster/view.h"

#include <gtest/gtest.h>

#include "test_nodes.h"

namespace atl::cluster {
namespace {

pb::Announcement Node(const std::string& name, pb::NodeRole role,
                      std::vector<LayerExpert> holds = {}) {
  pb::Announcement node;
  *node.mutable_info() = TestInfo(name, role);
  node.mutable_info()->set_incarnation(1);
  *node.mutable_state()->mutable_holds() = ToProto(holds);
  return node;
}

NodeList List(const std::vector<pb::Announcement>& nodes) {
  NodeList list;
  for (const auto& node : nodes) list.push_back(std::make_shared<const pb::Announcement>(node));
  return list;
}

TEST(AnnouncementsTest, ExpertListsGoThereAndBackSortedAndOnce) {
  const std::vector<LayerExpert> experts = {{0, 1}, {0, 8}, {1, 0}};
  const LayerExpertsProto proto = ToProto(experts);
  ASSERT_EQ(proto.size(), 2);
  EXPECT_EQ(proto[0].experts_size(), 2);
  EXPECT_EQ(FromProto(proto), experts);
  LayerExpertsProto messy;
  messy.Add()->set_layer(1);
  messy[0].add_experts(5);
  messy[0].add_experts(5);
  messy.Add()->set_layer(0);
  messy[1].add_experts(2);
  EXPECT_EQ(FromProto(messy), (std::vector<LayerExpert>{{0, 2}, {1, 5}}));
}

TEST(AnnouncementsTest, PlacementListsHoldersAndPassesOverWhatTheModelHasNot) {
  const auto placement =
      MakePlacement(List({Node("a", pb::NODE_ROLE_ATTENTION, {{0, 0}}),
                          Node("e0", pb::NODE_ROLE_EXPERT, {{0, 0}, {0, 8}, {0, 9}, {7, 0}}),
                          Node("e1", pb::NODE_ROLE_EXPERT, {{0, 0}, {1, 3}})}),
                    TestModel(), 5);
  EXPECT_EQ(placement->version, 5);
  EXPECT_EQ(placement->nodes, (std::vector<std::string>{"e0", "e1"}));
  ASSERT_EQ(placement->holders.size(), 2);
  ASSERT_EQ(placement->holders[0].size(), 9);
  EXPECT_EQ(placement->holders[0][0], (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(placement->holders[0][8], std::vector<int32_t>{0});
  EXPECT_EQ(placement->holders[1][3], std::vector<int32_t>{1});
  EXPECT_EQ(placement->MissingExperts(), 18 - 3);
}

TEST(AnnouncementsTest, DrainingHoldersCountOnlyWhereThereIsNoOther) {
  std::vector<pb::Announcement> nodes = {Node("e0", pb::NODE_ROLE_EXPERT, {{0, 0}, {0, 1}}),
                                         Node("e1", pb::NODE_ROLE_EXPERT, {{0, 0}}),
                                         Node("e2", pb::NODE_ROLE_EXPERT, {{0, 1}})};
  nodes[0].mutable_state()->set_draining(true);
  nodes[2].mutable_state()->set_draining(true);
  const auto placement = MakePlacement(List(nodes), TestModel(), 1);
  EXPECT_EQ(placement->holders[0][0], std::vector<int32_t>{1});
  EXPECT_EQ(placement->holders[0][1], (std::vector<int32_t>{0, 2}));
}

TEST(AnnouncementsTest, DenseLayersAreNeverMissing) {
  const ModelExperts model{.moe_layers = {false, true}, .num_routed = 2};
  const auto placement = MakePlacement({}, model, 0);
  EXPECT_TRUE(placement->holders[0].empty());
  EXPECT_EQ(placement->MissingExperts(), 2);
}

TEST(AnnouncementsTest, TheLiveRouterOfLowestRankPlansThenTheFirstByName) {
  std::vector<pb::Announcement> nodes = {
      Node("a", pb::NODE_ROLE_ROUTER), Node("b", pb::NODE_ROLE_ROUTER),
      Node("c", pb::NODE_ROLE_ROUTER), Node("d", pb::NODE_ROLE_EXPERT)};
  nodes[0].mutable_info()->set_rank(2);
  nodes[1].mutable_info()->set_rank(1);
  nodes[2].mutable_info()->set_rank(1);
  EXPECT_EQ(PlannerOf(List(nodes)), "b");
  nodes[1].mutable_state()->set_draining(true);
  EXPECT_EQ(PlannerOf(List(nodes)), "c");
  EXPECT_EQ(PlannerOf(List({nodes[3]})), "");
}

TEST(ClusterStateTest, TellsStructureFromLoadAndNothingTwice) {
  ClusterState state;
  std::vector<ViewChange> changes;
  state.AddListener([&](ViewChange change) { changes.push_back(change); });
  pb::Announcement node = Node("e0", pb::NODE_ROLE_EXPERT);
  EXPECT_TRUE(state.Announce(node).ok());
  EXPECT_TRUE(state.Announce(node).ok());
  EXPECT_EQ(changes, std::vector{ViewChange::kStructure});
  node.mutable_state()->set_queued_rows(5);
  node.mutable_state()->add_cached_prefixes(7);
  EXPECT_TRUE(state.Announce(node).ok());
  EXPECT_EQ(changes.back(), ViewChange::kLoad);
  EXPECT_EQ(state.snapshot()->version, 2);
  EXPECT_EQ(state.snapshot()->nodes[0]->state().queued_rows(), 5);
  node.mutable_state()->set_draining(true);
  EXPECT_TRUE(state.Announce(node).ok());
  EXPECT_EQ(changes,
            (std::vector{ViewChange::kStructure, ViewChange::kLoad, ViewChange::kStructure}));
}

TEST(ClusterStateTest, OneIncarnationOfANameLivesAtATime) {
  ClusterState state;
  pb::Announcement node = Node("e0", pb::NODE_ROLE_EXPERT), next = node;
  next.mutable_info()->set_incarnation(2);
  EXPECT_TRUE(state.Announce(node).ok());
  EXPECT_EQ(state.Announce(next).code(), absl::StatusCode::kAlreadyExists);
  state.Remove("e0", 2);  // the wrong one
  EXPECT_EQ(state.snapshot()->nodes.size(), 1);
  state.Remove("e0", 1);
  EXPECT_TRUE(state.snapshot()->nodes.empty());
  EXPECT_TRUE(state.Announce(next).ok());
}

}  // namespace
}  // namespace atl::cluster
