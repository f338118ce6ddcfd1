// Which attention node runs a sequence.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "router_service/front_door/attention_directory.h"

namespace atl::front_door {

// What this front door has running on each node. Thread-safe.
class NodeUse {
 public:
  void Begin(const std::string& node);
  void End(const std::string& node);
  // A run of that node has answered.
  void Progress(const std::string& node, absl::Time now);
  // Runs begun and not ended.
  int runs(const std::string& node) const;
  // The last answer of any run there; InfinitePast without one.
  absl::Time last_progress(const std::string& node) const;

 private:
  struct Entry {
    int runs = 0;
    absl::Time last_progress = absl::InfinitePast();
  };
  mutable absl::Mutex mu_;
  std::map<std::string, Entry> nodes_ ABSL_GUARDED_BY(mu_);  // those with runs only
};

// The node with most of the prefix cached, then the least loaded, then the first by name; null if
// `nodes` is empty.
//   prefix_hashes  PrefixHashes of the sequence's ids
//   use            own runs count beside the announced load: announcements come late, and a burst
//   must spread
// A cached prefix counts only on nodes that are not overloaded (more than twice the load of the
// least loaded, and 8 more): else everything that begins with one common system prompt would end up
// on one node.
const AttentionNode* ChooseNode(const std::vector<AttentionNode>& nodes,
                                const std::vector<uint64_t>& prefix_hashes, const NodeUse& use);

}  // namespace atl::front_door
