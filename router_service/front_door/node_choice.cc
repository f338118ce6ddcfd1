#include "router_service/front_door/node_choice.h"

#include <algorithm>
#include <limits>
#include <tuple>

namespace atl::front_door {
namespace {

constexpr int64_t kOverloadFactor = 2;
constexpr int64_t kOverloadSlack = 8;

// Blocks of the prefix that the node holds: all of the first n.
int64_t CachedBlocks(const AttentionNode& node, const std::vector<uint64_t>& prefix_hashes) {
  if (node.cached_prefixes == nullptr) return 0;
  int64_t blocks = 0;
  while (blocks < static_cast<int64_t>(prefix_hashes.size()) &&
         node.cached_prefixes->contains(prefix_hashes[blocks])) {
    ++blocks;
  }
  return blocks;
}

int64_t Load(const AttentionNode& node, const NodeUse& use) {
  return int64_t{node.running_sequences} + node.waiting_sequences + use.runs(node.name);
}

}  // namespace

void NodeUse::Begin(const std::string& node) {
  absl::MutexLock lock(&mu_);
  ++nodes_[node].runs;
}

void NodeUse::End(const std::string& node) {
  absl::MutexLock lock(&mu_);
  const auto it = nodes_.find(node);
  if (it != nodes_.end() && --it->second.runs == 0) nodes_.erase(it);
}

void NodeUse::Progress(const std::string& node, absl::Time now) {
  absl::MutexLock lock(&mu_);
  const auto it = nodes_.find(node);
  if (it != nodes_.end()) it->second.last_progress = now;
}

int NodeUse::runs(const std::string& node) const {
  absl::MutexLock lock(&mu_);
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? 0 : it->second.runs;
}

absl::Time NodeUse::last_progress(const std::string& node) const {
  absl::MutexLock lock(&mu_);
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? absl::InfinitePast() : it->second.last_progress;
}

const AttentionNode* ChooseNode(const std::vector<AttentionNode>& nodes,
                                const std::vector<uint64_t>& prefix_hashes, const NodeUse& use) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const AttentionNode& node : nodes) least = std::min(least, Load(node, use));
  const AttentionNode* best = nullptr;
  std::tuple<int64_t, int64_t, std::string> best_rank;
  for (const AttentionNode& node : nodes) {
    const int64_t load = Load(node, use);
    const bool overloaded = load > kOverloadFactor * least + kOverloadSlack;
    const int64_t cached = overloaded ? 0 : CachedBlocks(node, prefix_hashes);
    std::tuple<int64_t, int64_t, std::string> rank{-cached, load, node.name};
    if (best != nullptr && rank >= best_rank) continue;
    best = &node;
    best_rank = std::move(rank);
  }
  return best;
}

}  // namespace atl::front_door
