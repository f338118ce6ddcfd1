#include "router_service/front_door/node_troubles.h"

#include <algorithm>
#include <utility>

namespace atl::front_door {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);
constexpr size_t kMaxDoublings = 5;

}  // namespace

void NodeTroubles::Add(Kind kind, const std::string& node, std::shared_ptr<attention::AttentionBackend> backend,
                       absl::Time now) {
  const int doublings = 1 << std::min(troubles_.size(), kMaxDoublings);
  const absl::Duration pause = std::min(kFirstPause * doublings, kLongestPause);
  // What has expired and tells nothing any more goes, so that waiting for a full node does not grow the list.
  std::erase_if(troubles_, [&](const Trouble& t) { return t.kind == Kind::kFull && t.avoid_until <= now - pause; });
  troubles_.push_back({.kind = kind,
                       .node = node,
                       .backend = std::move(backend),
                       .avoid_until = kind == Kind::kRefused ? absl::InfiniteFuture() : now + pause,
                       .lost = kind == Kind::kFailed});
}

void NodeTroubles::Observe(const std::vector<AttentionNode>& listed) {
  for (Trouble& trouble : troubles_) {
    if (trouble.kind != Kind::kGone || trouble.lost) continue;
    trouble.lost = std::none_of(listed.begin(), listed.end(),
                                [&](const AttentionNode& node) { return node.backend == trouble.backend; });
  }
}

int NodeTroubles::lost() const {
  return static_cast<int>(std::count_if(troubles_.begin(), troubles_.end(), [](const Trouble& t) { return t.lost; }));
}

int NodeTroubles::suspects() const {
  return static_cast<int>(std::count_if(troubles_.begin(), troubles_.end(),
                                        [](const Trouble& t) { return t.kind == Kind::kGone && !t.lost; }));
}

bool NodeTroubles::newest_is_suspect() const {
  return !troubles_.empty() && troubles_.back().kind == Kind::kGone && !troubles_.back().lost;
}

const NodeTroubles::Trouble* NodeTroubles::Avoided(const AttentionNode& node, absl::Time now) const {
  for (const Trouble& trouble : troubles_) {
    if (trouble.backend == node.backend && trouble.avoid_until > now) return &trouble;
  }
  return nullptr;
}

std::vector<AttentionNode> NodeTroubles::Usable(const std::vector<AttentionNode>& listed, absl::Time now) const {
  std::vector<AttentionNode> usable;
  for (const AttentionNode& node : listed) {
    if (!node.draining && Avoided(node, now) == nullptr) usable.push_back(node);
  }
  return usable;
}

absl::Time NodeTroubles::next_retry(absl::Time now) const {
  absl::Time next = absl::InfiniteFuture();
  for (const Trouble& trouble : troubles_) {
    if (trouble.avoid_until > now) next = std::min(next, trouble.avoid_until);
  }
  return next;
}

bool NodeTroubles::AllAre(Kind kind, const std::vector<AttentionNode>& listed, absl::Time now) const {
  bool any = false;
  for (const AttentionNode& node : listed) {
    if (node.draining) continue;
    const Trouble* trouble = Avoided(node, now);
    if (trouble == nullptr || trouble->kind != kind) return false;
    any = true;
  }
  return any;
}

}  // namespace atl::front_door
