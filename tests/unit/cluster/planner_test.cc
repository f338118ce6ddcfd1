#include "cluster/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace atl::cluster {
namespace {

// 6 layers, the first without experts; 16 routed of 100 bytes and a shared one of 200.
ModelExperts SmallModel() {
  return {.moe_layers = {false, true, true, true, true, true},
          .num_routed = 16,
          .has_shared = true,
          .routed_bytes = 100,
          .shared_bytes = 200};
}
constexpr int64_t kLayers = 5, kRouted = 16;

std::vector<PlanNode> Nodes(int count, int64_t budget = 0) {
  std::vector<PlanNode> nodes;
  for (int i = 0; i < count; ++i)
    nodes.push_back({.name = "expert-" + std::to_string(i), .budget_bytes = budget});
  return nodes;
}

int64_t Bytes(const ModelExperts& model, const std::vector<LayerExpert>& experts) {
  int64_t bytes = 0;
  for (const LayerExpert id : experts)
    bytes += id.expert == model.num_routed ? model.shared_bytes : model.routed_bytes;
  return bytes;
}

// Counted from the targets alone: copies of every expert, on as many different nodes.
void ExpectCopies(const ModelExperts& model, const Targets& targets, int routed_copies,
                  int shared_copies) {
  std::map<LayerExpert, int> copies;
  for (const auto& [name, experts] : targets.of_node) {
    EXPECT_TRUE(std::is_sorted(experts.begin(), experts.end())) << name;
    EXPECT_EQ(std::set<LayerExpert>(experts.begin(), experts.end()).size(), experts.size()) << name;
    for (const LayerExpert id : experts) {
      EXPECT_TRUE(model.Has(id)) << name << " " << id.layer << " " << id.expert;
      ++copies[id];
    }
  }
  for (int32_t layer = 0; layer < static_cast<int32_t>(model.moe_layers.size()); ++layer) {
    if (!model.moe_layers[layer]) continue;
    for (int32_t e = 0; e < model.num_ids(); ++e) {
      const int expected = e == model.num_routed ? shared_copies : routed_copies;
      EXPECT_EQ((copies[{layer, e}]), expected) << "layer " << layer << " expert " << e;
    }
  }
}

int64_t RoutedOfLayer(const std::vector<LayerExpert>& experts, int32_t layer, int64_t num_routed) {
  return std::count_if(experts.begin(), experts.end(),
                       [&](LayerExpert id) { return id.layer == layer && id.expert < num_routed; });
}

// What the nodes hold once they have done as told.
void Obey(const Targets& targets, std::vector<PlanNode>* nodes) {
  for (PlanNode& node : *nodes) node.holds = targets.of_node.at(node.name);
}

TEST(PlannerTest, EveryLayerIsSpreadEvenlyOverAnyNumberOfNodes) {
  for (const int count : {1, 2, 3, 4, 5, 8, 16}) {
    SCOPED_TRACE(count);
    const ModelExperts model = SmallModel();
    const auto targets = PlanTargets({.model = model, .nodes = Nodes(count)});
    ASSERT_TRUE(targets.ok()) << targets.status();
    EXPECT_TRUE(targets->shared_everywhere);
    ExpectCopies(model, *targets, 1, count);
    int64_t least = kLayers * kRouted, most = 0;
    for (const auto& [name, experts] : targets->of_node) {
      int64_t total = 0;
      for (int32_t layer = 1; layer <= kLayers; ++layer) {
        const int64_t here = RoutedOfLayer(experts, layer, kRouted);
        EXPECT_GE(here, kRouted / count) << name << " layer " << layer;
        EXPECT_LE(here, (kRouted + count - 1) / count) << name << " layer " << layer;
        total += here;
      }
      least = std::min(least, total);
      most = std::max(most, total);
    }
    EXPECT_LE(most - least, 1);
    EXPECT_EQ(targets->loads, kLayers * (kRouted + count));
  }
}

TEST(PlannerTest, IsAFunctionOfWhoIsThereNotOfTheirOrder) {
  std::vector<PlanNode> nodes = Nodes(5);
  const auto a = PlanTargets({.model = SmallModel(), .nodes = nodes});
  std::reverse(nodes.begin(), nodes.end());
  const auto b = PlanTargets({.model = SmallModel(), .nodes = nodes});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->of_node, b->of_node);
}

TEST(PlannerTest, WhatIsBalancedStays) {
  for (const int count : {1, 3, 7}) {
    for (const int replicas : {1, 2, 3}) {
      std::vector<PlanNode> nodes = Nodes(count);
      const auto first =
          PlanTargets({.model = SmallModel(), .nodes = nodes, .min_replicas = replicas});
      ASSERT_TRUE(first.ok());
      Obey(*first, &nodes);
      const auto second =
          PlanTargets({.model = SmallModel(), .nodes = nodes, .min_replicas = replicas});
      ASSERT_TRUE(second.ok());
      EXPECT_EQ(second->loads, 0) << count << " nodes, " << replicas << " replicas";
      EXPECT_EQ(second->of_node, first->of_node);
    }
  }
}

TEST(PlannerTest, AJoiningNodeMovesOnlyItsOwnShare) {
  for (const int count : {1, 2, 4, 7}) {
    SCOPED_TRACE(count);
    std::vector<PlanNode> nodes = Nodes(count);
    Obey(*PlanTargets({.model = SmallModel(), .nodes = nodes}), &nodes);
    nodes.push_back({.name = "a-new-one"});  // first by name: ties must not favour it
    const auto targets = PlanTargets({.model = SmallModel(), .nodes = nodes});
    ASSERT_TRUE(targets.ok());
    ExpectCopies(SmallModel(), *targets, 1, count + 1);
    const int64_t share = (kLayers * kRouted + count) / (count + 1);
    EXPECT_LE(targets->loads, share + kLayers /*shared*/ + kLayers /*odd ones between old nodes*/);
    EXPECT_GE(targets->loads, share - 1 + kLayers);
  }
}

TEST(PlannerTest, ALeavingNodeMovesOnlyWhatItHeld) {
  for (const int count : {2, 3, 5, 8}) {
    SCOPED_TRACE(count);
    std::vector<PlanNode> nodes = Nodes(count);
    Obey(*PlanTargets({.model = SmallModel(), .nodes = nodes}), &nodes);
    nodes.erase(nodes.begin());
    const auto targets = PlanTargets({.model = SmallModel(), .nodes = nodes});
    ASSERT_TRUE(targets.ok());
    ExpectCopies(SmallModel(), *targets, 1, count - 1);
    const int64_t lost = (kLayers * kRouted + count - 1) / count;
    EXPECT_LE(targets->loads, lost + kLayers);
  }
}

TEST(PlannerTest, ADrainingNodeIsEmptiedAndMayGiveUpWhatOthersHave) {
  std::vector<PlanNode> nodes = Nodes(3);
  Obey(*PlanTargets({.model = SmallModel(), .nodes = nodes}), &nodes);
  nodes[1].draining = true;
  const auto targets = PlanTargets({.model = SmallModel(), .nodes = nodes});
  ASSERT_TRUE(targets.ok());
  ExpectCopies(SmallModel(), *targets, 1, 2);
  EXPECT_TRUE(targets->of_node.at("expert-1").empty());
  // Shared experts are on the other nodes already; its routed ones nobody else has yet.
  const auto before = MayUnload(nodes, *targets);
  EXPECT_EQ(before.at("expert-1").size(), kLayers);
  for (const LayerExpert id : before.at("expert-1")) EXPECT_EQ(id.expert, kRouted);
  const std::vector<LayerExpert> held = nodes[1].holds;
  Obey(*targets, &nodes);
  nodes[1].holds = held;
  EXPECT_EQ(MayUnload(nodes, *targets).at("expert-1"), held);
}

TEST(PlannerTest, NothingIsGivenUpByEveryHolder) {
  std::vector<PlanNode> nodes = Nodes(3);
  const LayerExpert id{1, 3};
  nodes[0].holds = nodes[1].holds = {id};
  Targets targets;
  targets.of_node = {{"expert-0", {}}, {"expert-1", {}}, {"expert-2", {id}}};
  // The one that is to have it has not announced it: both others keep it.
  EXPECT_TRUE(MayUnload(nodes, targets).at("expert-0").empty());
  EXPECT_TRUE(MayUnload(nodes, targets).at("expert-1").empty());
  nodes[2].holds = {id};
  EXPECT_EQ(MayUnload(nodes, targets).at("expert-0"), std::vector{id});
  EXPECT_EQ(MayUnload(nodes, targets).at("expert-1"), std::vector{id});
  nodes[2].draining = true;
  EXPECT_TRUE(MayUnload(nodes, targets).at("expert-0").empty());
}

TEST(PlannerTest, BudgetsAreKeptAndFilledToTheBrim) {
  const ModelExperts model = SmallModel();
  // With shared experts everywhere 1,000 bytes of each node are gone; 8,000 of routed ones must go
  // into what is left.
  std::vector<PlanNode> nodes = Nodes(3);
  nodes[0].budget_bytes = 1'500;
  nodes[1].budget_bytes = 3'500;
  nodes[2].budget_bytes = 6'000;
  const auto targets = PlanTargets({.model = model, .nodes = nodes});
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_TRUE(targets->shared_everywhere);
  ExpectCopies(model, *targets, 1, 3);
  for (const PlanNode& node : nodes) {
    EXPECT_EQ(Bytes(model, targets->of_node.at(node.name)), node.budget_bytes) << node.name;
  }
}

TEST(PlannerTest, SharedExpertsAreSpreadWhereTheyDoNotFitEverywhere) {
  const ModelExperts model = SmallModel();
  // All experts once take 9,000 bytes.
  const auto targets = PlanTargets({.model = model, .nodes = Nodes(3, 3'000)});
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_FALSE(targets->shared_everywhere);
  ExpectCopies(model, *targets, 1, 1);
  for (const auto& [name, experts] : targets->of_node)
    EXPECT_LE(Bytes(model, experts), 3'000) << name;
}

TEST(PlannerTest, SmallBudgetsGetLittleTheOthersShareTheRestEvenly) {
  const ModelExperts model = SmallModel();
  std::vector<PlanNode> nodes = Nodes(3);
  nodes[1].budget_bytes = 1'000 + 10 * 100;
  const auto targets = PlanTargets({.model = model, .nodes = nodes});
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_EQ(targets->of_node.at("expert-0").size(), kLayers + 35);
  EXPECT_EQ(targets->of_node.at("expert-1").size(), kLayers + 10);
  EXPECT_EQ(targets->of_node.at("expert-2").size(), kLayers + 35);
}

TEST(PlannerTest, WhatANodeCannotReadGoesToOneThatCan) {
  const ModelExperts model = SmallModel();
  std::vector<PlanNode> nodes = Nodes(3);
  const Targets before = *PlanTargets({.model = model, .nodes = nodes});
  // All of its routed experts of two layers, none of which it holds.
  for (const LayerExpert id : before.of_node.at("expert-1")) {
    if (id.layer <= 2 && id.expert < kRouted) nodes[1].unreadable.push_back(id);
  }
  ASSERT_GE(nodes[1].unreadable.size(), 10u);
  const Targets after = *PlanTargets({.model = model, .nodes = nodes});
  ExpectCopies(model, after, 1, 3);
  for (const LayerExpert id : nodes[1].unreadable) {
    const auto& target = after.of_node.at("expert-1");
    EXPECT_FALSE(std::binary_search(target.begin(), target.end(), id));
  }
  // What it holds it keeps: it was read before.
  nodes[1].holds = nodes[1].unreadable;
  EXPECT_EQ(PlanTargets({.model = model, .nodes = nodes})->of_node, before.of_node);
}

TEST(PlannerTest, WhatNobodyElseHasRoomForStaysWithItsNode) {
  const ModelExperts model = SmallModel();
  const int64_t budget = kLayers * (kRouted * 100 / 2 + 200);  // exactly a half each
  std::vector<PlanNode> nodes = Nodes(2, budget);
  const Targets before = *PlanTargets({.model = model, .nodes = nodes});
  nodes[0].unreadable = {before.of_node.at("expert-0").front()};
  EXPECT_EQ(PlanTargets({.model = model, .nodes = nodes})->of_node, before.of_node);
  nodes[1].budget_bytes = budget + 100;
  const Targets after = *PlanTargets({.model = model, .nodes = nodes});
  EXPECT_EQ(after.of_node.at("expert-0").size() + 1, before.of_node.at("expert-0").size());
  ExpectCopies(model, after, 1, 2);
}

TEST(PlannerTest, SaysHowManyBytesAreMissing) {
  const auto targets = PlanTargets({.model = SmallModel(), .nodes = Nodes(2, 4'000)});
  EXPECT_EQ(targets.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(targets.status().message().find("1000 bytes are missing"), std::string::npos)
      << targets.status();
  EXPECT_EQ(PlanTargets({.model = SmallModel(), .nodes = {}}).status().code(),
            absl::StatusCode::kUnavailable);
  std::vector<PlanNode> draining = Nodes(1);
  draining[0].draining = true;
  EXPECT_EQ(PlanTargets({.model = SmallModel(), .nodes = draining}).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(PlannerTest, ReplicasAreOnDifferentNodesAsFarAsMemoryAllows) {
  const ModelExperts model = SmallModel();
  for (const int count : {2, 3, 5, 8}) {
    const auto targets = PlanTargets({.model = model, .nodes = Nodes(count), .min_replicas = 2});
    ASSERT_TRUE(targets.ok()) << targets.status();
    EXPECT_EQ(targets->replicas, 2);
    ExpectCopies(model, *targets, 2, count);
  }
  const auto one_node = PlanTargets({.model = model, .nodes = Nodes(1), .min_replicas = 2});
  ASSERT_TRUE(one_node.ok());
  EXPECT_EQ(one_node->replicas, 1);
  const auto tight = PlanTargets({.model = model, .nodes = Nodes(3, 5'000), .min_replicas = 2});
  ASSERT_TRUE(tight.ok());
  EXPECT_EQ(tight->replicas, 1);
  ExpectCopies(model, *tight, 1, 3);
}

TEST(PlannerTest, ReplicasAreInDifferentZonesEvenIfThatMovesThem) {
  const ModelExperts model = SmallModel();
  std::vector<PlanNode> nodes = Nodes(2);
  for (PlanNode& node : nodes) node.zone = "a";
  Obey(*PlanTargets({.model = model, .nodes = nodes, .min_replicas = 2}), &nodes);
  nodes.push_back({.name = "expert-2", .zone = "b"});
  nodes.push_back({.name = "expert-3", .zone = "b"});
  const auto targets = PlanTargets({.model = model, .nodes = nodes, .min_replicas = 2});
  ASSERT_TRUE(targets.ok()) << targets.status();
  ExpectCopies(model, *targets, 2, 4);
  std::map<LayerExpert, std::set<std::string>> zones;
  for (const PlanNode& node : nodes) {
    for (const LayerExpert id : targets->of_node.at(node.name)) zones[id].insert(node.zone);
  }
  for (const auto& [id, in] : zones)
    EXPECT_EQ(in.size(), 2) << "layer " << id.layer << " expert " << id.expert;
}

// Every order of joins, leaves and drains ends where every expert has its holder, at every moment
// between.
TEST(PlannerTest, CoverageIsNeverLostOnTheWay) {
  const ModelExperts model = SmallModel();
  uint64_t seed = 20260102;
  const auto random = [&seed](uint64_t below) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
  };
  std::vector<PlanNode> nodes = Nodes(3);
  Obey(*PlanTargets({.model = model, .nodes = nodes}), &nodes);
  for (int step = 0, named = 3; step < 60; ++step) {
    SCOPED_TRACE(step);
    if (nodes.size() < 3 || random(2) == 0) {
      nodes.push_back({.name = "expert-" + std::to_string(named++)});
    } else {
      nodes[random(nodes.size())].draining = true;
    }
    if (std::all_of(nodes.begin(), nodes.end(), [](const PlanNode& n) { return n.draining; })) {
      nodes.push_back({.name = "expert-" + std::to_string(named++)});
    }
    const auto targets = PlanTargets({.model = model, .nodes = nodes});
    ASSERT_TRUE(targets.ok()) << targets.status();
    for (int turn = 0; turn < 4;
         ++turn) {  // each node loads or gives up a part of what it may, in any order
      for (PlanNode& node : nodes) {
        const auto may_unload = MayUnload(nodes, *targets);
        std::set<LayerExpert> holds(node.holds.begin(), node.holds.end());
        for (const LayerExpert id : targets->of_node.at(node.name)) {
          if (turn == 3 || random(2) == 0) holds.insert(id);
        }
        for (const LayerExpert id : may_unload.at(node.name)) {
          if (turn == 3 || random(2) == 0) holds.erase(id);
        }
        node.holds.assign(holds.begin(), holds.end());
        std::set<LayerExpert> covered;
        for (const PlanNode& other : nodes) covered.insert(other.holds.begin(), other.holds.end());
        ASSERT_EQ(covered.size(), kLayers * (kRouted + 1));
      }
    }
    const auto may_unload = MayUnload(nodes, *targets);  // a last look when all have loaded
    for (PlanNode& node : nodes) {
      for (const LayerExpert id : may_unload.at(node.name)) std::erase(node.holds, id);
      EXPECT_EQ(node.holds, targets->of_node.at(node.name)) << node.name;
    }
    std::erase_if(nodes, [](const PlanNode& node) { return node.draining; });
  }
}

TEST(PlannerTest, PlansALargeModelOverManyNodes) {
  ModelExperts model{.num_routed = 256, .has_shared = true, .routed_bytes = 44, .shared_bytes = 44};
  for (int layer = 0; layer < 61; ++layer) model.moe_layers.push_back(layer >= 3);
  std::vector<PlanNode> nodes = Nodes(64);
  const auto targets = PlanTargets({.model = model, .nodes = nodes, .min_replicas = 2});
  ASSERT_TRUE(targets.ok()) << targets.status();
  ExpectCopies(model, *targets, 2, 64);
  Obey(*targets, &nodes);
  nodes.pop_back();
  const auto after = PlanTargets({.model = model, .nodes = nodes, .min_replicas = 2});
  ASSERT_TRUE(after.ok());
  ExpectCopies(model, *after, 2, 63);
  EXPECT_LE(after->loads, 58 * 8 + 58 * 8);  // what it held, and at most as many odd ones
}

}  // namespace
}  // namespace atl::cluster
