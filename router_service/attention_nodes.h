// The attention nodes of a router's view, as the front door chooses among them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "cluster/view.h"
#include "router_service/front_door/attention_directory.h"

namespace atl::router {

// Thread-safe.
class AttentionNodes final : public front_door::AttentionDirectory {
 public:
  using Connect =
      std::function<std::unique_ptr<attention::AttentionBackend>(const std::string& address)>;

  // `state` outlives it. One backend for each incarnation of a node, made by `connect`.
  AttentionNodes(const cluster::ClusterState* state, Connect connect)
      : state_(state), connect_(std::move(connect)) {}

  std::vector<front_door::AttentionNode> List() const override;

 private:
  struct Node {
    uint64_t incarnation = 0;
    std::shared_ptr<const cluster::pb::Announcement> announcement;  // what `listed` was made from
    front_door::AttentionNode listed;
  };
  void Refresh(Node* node, std::shared_ptr<const cluster::pb::Announcement> announcement) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const cluster::ClusterState* const state_;
  const Connect connect_;
  mutable absl::Mutex mu_;
  mutable std::map<std::string, Node> nodes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace atl::router
