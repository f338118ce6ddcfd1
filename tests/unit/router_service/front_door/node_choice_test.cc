#include "router_service/front_door/node_choice.h"

#include <gtest/gtest.h>

#include "attention_service/client/prefix_hash.h"

namespace atl::front_door {
namespace {

std::vector<uint32_t> Prompt(size_t n) {
  std::vector<uint32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = static_cast<uint32_t>(i * 7 % 1000);
  return ids;
}

AttentionNode Node(const std::string& name, uint32_t running, size_t cached_blocks = 0) {
  AttentionNode node{.name = name, .running_sequences = running};
  const std::vector<uint64_t> hashes = attention::PrefixHashes(Prompt(64 * cached_blocks), 0);
  node.cached_prefixes =
      std::make_shared<std::unordered_set<uint64_t>>(hashes.begin(), hashes.end());
  return node;
}

std::string Choice(const std::vector<AttentionNode>& nodes, const NodeUse& use = {}) {
  const AttentionNode* node = ChooseNode(nodes, attention::PrefixHashes(Prompt(200), 0), use);
  return node == nullptr ? "none" : node->name;
}

TEST(NodeChoiceTest, LongestPrefixThenLeastLoadThenName) {
  EXPECT_EQ(Choice({}), "none");
  EXPECT_EQ(Choice({Node("b", 0), Node("a", 0)}), "a");
  EXPECT_EQ(Choice({Node("a", 1), Node("b", 0)}), "b");
  EXPECT_EQ(Choice({Node("a", 0), Node("b", 3, 1), Node("c", 5, 3)}), "c");
  EXPECT_EQ(Choice({Node("a", 4, 2), Node("b", 3, 2)}), "b");
}

TEST(NodeChoiceTest, WaitingSequencesAreLoad) {
  AttentionNode waiting = Node("a", 1);
  waiting.waiting_sequences = 5;
  EXPECT_EQ(Choice({waiting, Node("b", 3)}), "b");
}

TEST(NodeChoiceTest, OnlyTheUnbrokenBeginningOfThePrefixCounts) {
  AttentionNode hole = Node("b", 0);
  const std::vector<uint64_t> hashes = attention::PrefixHashes(Prompt(192), 0);
  hole.cached_prefixes =
      std::make_shared<std::unordered_set<uint64_t>>(hashes.begin() + 1, hashes.end());
  EXPECT_EQ(Choice({Node("a", 0), hole}), "a");
}

TEST(NodeChoiceTest, NoAnnouncedPrefixesIsNoPrefix) {
  AttentionNode none = Node("a", 0);
  none.cached_prefixes = nullptr;
  EXPECT_EQ(Choice({none, Node("b", 2, 1)}), "b");
}

TEST(NodeChoiceTest, AnOverloadedNodeIsNotChosenForItsCache) {
  EXPECT_EQ(Choice({Node("a", 8, 3), Node("b", 0)}), "a");
  EXPECT_EQ(Choice({Node("a", 9, 3), Node("b", 0)}), "b");
}

TEST(NodeChoiceTest, ABurstSpreadsBeforeLoadIsAnnounced) {
  NodeUse use;
  const std::vector<AttentionNode> nodes = {Node("a", 0), Node("b", 0), Node("c", 0)};
  for (int i = 0; i < 30; ++i) use.Begin(Choice(nodes, use));
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(use.runs(name), 10);
  use.End("b");
  EXPECT_EQ(Choice(nodes, use), "b");
}

TEST(NodeUseTest, ProgressIsForgottenWithTheLastRun) {
  NodeUse use;
  const absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  use.Progress("a", now);
  EXPECT_EQ(use.last_progress("a"), absl::InfinitePast());
  use.Begin("a");
  use.Progress("a", now);
  EXPECT_EQ(use.last_progress("a"), now);
  use.End("a");
  EXPECT_EQ(use.last_progress("a"), absl::InfinitePast());
  EXPECT_EQ(use.runs("a"), 0);
}

}  // namespace
}  // namespace atl::front_door
