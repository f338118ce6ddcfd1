// A router's view of the cluster: what the nodes that joined it announce, and itself. Soft state:
// nothing is kept that the nodes would not announce again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "cluster/announcements.h"

namespace atl::cluster {

struct ClusterSnapshot {
  uint64_t version = 0;  // count of changes
  NodeList nodes;
};

enum class ViewChange {
  kStructure,  // a node came, went, is draining, holds something else, obeys another term
  kLoad,       // figures of load and caches
};

// Thread-safe.
class ClusterState {
 public:
  // Called after each change, on the thread that made it, with no lock held: must not block.
  // Listeners are added before the first announcement and stay.
  using Listener = std::function<void(ViewChange)>;
  void AddListener(Listener listener);

  // A node came, or changed. AlreadyExists: another incarnation of that name lives.
  Status Announce(const pb::Announcement& announcement);
  // Does nothing if that incarnation is not here.
  void Remove(const std::string& name, uint64_t incarnation);

  std::shared_ptr<const ClusterSnapshot> snapshot() const;

 private:
  void Notify(ViewChange change);

  std::vector<Listener> listeners_;  // constant after the first announcement
  mutable absl::Mutex mu_;
  std::map<std::string, std::shared_ptr<const pb::Announcement>> nodes_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const ClusterSnapshot> snapshot_ ABSL_GUARDED_BY(mu_) =
      std::make_shared<ClusterSnapshot>();
};

}  // namespace atl::cluster
