#include "router_service/attention_nodes.h"

#include <set>
#include <utility>

namespace atl::router {

std::vector<front_door::AttentionNode> AttentionNodes::List() const {
  const std::shared_ptr<const cluster::ClusterSnapshot> snapshot = state_->snapshot();
  std::set<std::string> live;
  std::vector<front_door::AttentionNode> list;
  absl::MutexLock lock(&mu_);
  for (const auto& announcement : snapshot->nodes) {
    if (announcement->info().role() != cluster::pb::NODE_ROLE_ATTENTION) continue;
    live.insert(announcement->info().name());
    Node& node = nodes_[announcement->info().name()];
    if (node.announcement != announcement) Refresh(&node, announcement);
    list.push_back(node.listed);
  }
  std::erase_if(nodes_, [&live](const auto& entry) { return !live.contains(entry.first); });
  return list;
}

void AttentionNodes::Refresh(Node* node,
                             std::shared_ptr<const cluster::pb::Announcement> announcement) const {
  const cluster::pb::NodeInfo& info = announcement->info();
  const cluster::pb::NodeState& state = announcement->state();
  if (node->incarnation != info.incarnation() || node->listed.backend == nullptr) {
    node->incarnation = info.incarnation();
    node->listed.name = info.name();
    node->listed.backend = connect_(info.grpc_address());
  }
  node->listed.running_sequences = state.running_sequences();
  node->listed.waiting_sequences = state.waiting_sequences();
  node->listed.draining = state.draining();
  node->listed.cached_prefixes = std::make_shared<const std::unordered_set<uint64_t>>(
      state.cached_prefixes().begin(), state.cached_prefixes().end());
  node->announcement = std::move(announcement);
}

}  // namespace atl::router
