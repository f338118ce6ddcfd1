#include "router_service/front_door/node_troubles.h"

#include <algorithm>
#include <utility>

namespace atl::front_door {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);
constexpr int kMaxDoublings = 5;

}  // namespace

void NodeTroubles::Add(Kind kind, std::shared_ptr<attention::AttentionBackend> backend,
                       absl::Time now) {
  const absl::Duration pause =
      std::min(kFirstPause * (1 << std::min(num_added_, kMaxDoublings)), kLongestPause);
  ++num_added_;
  // One node is lost once, however often it was tried.
  std::erase_if(troubles_, [&](const Trouble& t) {
    return !t.lost && t.kind == kind && t.backend == backend;
  });
  troubles_.push_back({.kind = kind,
                       .backend = std::move(backend),
                       .avoid_until = kind == Kind::kRefused ? absl::InfiniteFuture() : now + pause,
                       .lost = kind == Kind::kFailed});
}

void NodeTroubles::Clear() {
  troubles_.clear();
  num_added_ = 0;
}

void NodeTroubles::Observe(const std::vector<AttentionNode>& listed) {
  std::erase_if(troubles_, [&](Trouble& trouble) {
    if (trouble.kind != Kind::kGone || trouble.lost) return false;
    const auto node = std::find_if(listed.begin(), listed.end(), [&](const AttentionNode& n) {
      return n.backend == trouble.backend;
    });
    trouble.lost = node == listed.end();
    return !trouble.lost && node->draining;
  });
}

int NodeTroubles::lost() const {
  return static_cast<int>(
      std::count_if(troubles_.begin(), troubles_.end(), [](const Trouble& t) { return t.lost; }));
}

int NodeTroubles::suspects() const {
  return static_cast<int>(std::count_if(troubles_.begin(), troubles_.end(), [](const Trouble& t) {
    return t.kind == Kind::kGone && !t.lost;
  }));
}

bool NodeTroubles::newest_is_suspect() const {
  return !troubles_.empty() && troubles_.back().kind == Kind::kGone && !troubles_.back().lost;
}

const NodeTroubles::Trouble* NodeTroubles::Avoided(const AttentionNode& node,
                                                   absl::Time now) const {
  for (const Trouble& trouble : troubles_) {
    if (trouble.backend == node.backend && trouble.avoid_until > now) return &trouble;
  }
  return nullptr;
}

std::vector<AttentionNode> NodeTroubles::Usable(const std::vector<AttentionNode>& listed,
                                                absl::Time now) const {
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

bool NodeTroubles::AllAre(Kind kind, const std::vector<AttentionNode>& listed,
                          absl::Time now) const {
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
