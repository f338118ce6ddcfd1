#include "cluster/planner_thread.h"

#include <gtest/gtest.h>

#include <set>

#include "test_nodes.h"

namespace atl::cluster {
namespace {

std::unique_ptr<TestNode> Expert(int i, const std::vector<std::string>& join) {
  return std::make_unique<TestNode>("expert-" + std::to_string(i), pb::NODE_ROLE_EXPERT, join);
}

// Every expert at exactly one node but the shared ones, which are everywhere.
bool Balanced(const std::vector<std::unique_ptr<TestNode>>& experts) {
  size_t total = 0;
  std::set<LayerExpert> all;
  for (const auto& node : experts) {
    const std::vector<LayerExpert> holds = node->Holds();
    if (holds.size() < 16 / experts.size()) return false;
    total += holds.size();
    all.insert(holds.begin(), holds.end());
  }
  return all.size() == 18 && total == 16 + 2 * experts.size();
}

TEST(PlannerThreadTest, LoadsEverythingThenFollowsJoinsAndLeaves) {
  TestRouter router({.planner = true});
  std::vector<std::unique_ptr<TestNode>> experts;
  experts.push_back(Expert(0, {router.address()}));
  EXPECT_TRUE(Eventually([&] { return Balanced(experts); }));
  experts.push_back(Expert(1, {router.address()}));
  EXPECT_TRUE(Eventually([&] { return Balanced(experts); }));
  experts.push_back(Expert(2, {router.address()}));
  EXPECT_TRUE(Eventually([&] { return Balanced(experts); }));
  experts.erase(experts.begin());
  EXPECT_TRUE(Eventually([&] { return Balanced(experts); }));
  EXPECT_EQ(experts[0]->LastCommand().planner(), "router-0");
}

TEST(PlannerThreadTest, WhatANodeCannotReadIsLoadedByAnother) {
  TestRouter router({.planner = true});
  std::vector<std::unique_ptr<TestNode>> experts;
  experts.push_back(Expert(0, {router.address()}));
  ASSERT_TRUE(Eventually([&] { return Balanced(experts); }));
  experts.push_back(Expert(1, {router.address()}));
  experts.push_back(Expert(2, {router.address()}));
  ASSERT_TRUE(Eventually([&] { return Balanced(experts); }));
  experts[1]->BreakLayer(1);
  experts.erase(experts.begin());  // its share is to be taken over, by the last where need be
  EXPECT_TRUE(Eventually([&] { return router.Missing() == 0 && experts[1]->Holds().size() > 9; }));
}

TEST(PlannerThreadTest, ADrainingNodeIsEmptied) {
  TestRouter router({.planner = true});
  std::vector<std::unique_ptr<TestNode>> experts;
  experts.push_back(Expert(0, {router.address()}));
  experts.push_back(Expert(1, {router.address()}));
  ASSERT_TRUE(Eventually([&] { return Balanced(experts); }));
  experts[0]->Change([](pb::NodeState* state) { state->set_draining(true); });
  EXPECT_TRUE(Eventually([&] { return experts[0]->Holds().empty(); }));
  EXPECT_EQ(experts[1]->Holds().size(), 18);
  EXPECT_EQ(router.Missing(), 0);
}

TEST(PlannerThreadTest, TheNextRankTakesOverWithAHigherTermAndGivesBack) {
  auto first =
      std::make_unique<TestRouter>(TestRouter::Options{.name = "router-0", .planner = true});
  const std::string first_address = first->address();
  TestRouter second({.name = "router-1", .rank = 1, .join = {first_address}, .planner = true});
  first->FollowRouters();
  std::vector<std::unique_ptr<TestNode>> experts;
  experts.push_back(Expert(0, {first_address, second.address()}));
  ASSERT_TRUE(Eventually([&] {
    first->FollowRouters();
    return second.Names().size() == 3 && first->Names().size() == 3;
  }));
  ASSERT_TRUE(Eventually(
      [&] { return Balanced(experts) && experts[0]->LastCommand().planner() == "router-0"; }));
  const uint64_t first_term = experts[0]->LastCommand().term();

  first.reset();
  experts.push_back(Expert(1, {second.address()}));
  EXPECT_TRUE(Eventually(
      [&] { return Balanced(experts) && experts[1]->LastCommand().planner() == "router-1"; }));
  const uint64_t second_term = experts[1]->LastCommand().term();
  EXPECT_GT(second_term, first_term);

  first = std::make_unique<TestRouter>(TestRouter::Options{
      .name = "router-0", .listen = first_address, .join = {second.address()}, .planner = true});
  experts.push_back(Expert(2, {second.address()}));
  EXPECT_TRUE(Eventually([&] {
    second.FollowRouters();
    return Balanced(experts) && experts[2]->LastCommand().planner() == "router-0";
  }));
  EXPECT_GT(experts[2]->LastCommand().term(), second_term);
}

TEST(PlannerThreadTest, ARestartedPlannerMovesNothing) {
  auto router = std::make_unique<TestRouter>(TestRouter::Options{.planner = true});
  const std::string address = router->address();
  std::vector<std::unique_ptr<TestNode>> experts;
  for (int i = 0; i < 3; ++i) experts.push_back(Expert(i, {address}));
  ASSERT_TRUE(Eventually([&] { return Balanced(experts); }));
  std::vector<std::vector<LayerExpert>> before;
  for (const auto& node : experts) before.push_back(node->Holds());
  const uint64_t term = experts[0]->LastCommand().term();
  router.reset();
  router = std::make_unique<TestRouter>(TestRouter::Options{.listen = address, .planner = true});
  ASSERT_TRUE(Eventually([&] {
    return std::all_of(experts.begin(), experts.end(),
                       [&](const auto& n) { return n->LastCommand().term() > term; });
  }));
  for (size_t i = 0; i < experts.size(); ++i) EXPECT_EQ(experts[i]->Holds(), before[i]) << i;
}

}  // namespace
}  // namespace atl::cluster
