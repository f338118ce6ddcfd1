// What one sequence has met with at attention nodes since its last new token: whom to avoid, how
// many were lost.
#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "router_service/front_door/attention_directory.h"

namespace atl::front_door {

// Thread-compatible. A node is known by its backend: one that has restarted under its old name is
// another node.
class NodeTroubles {
 public:
  enum class Kind {
    kFull,     // RESOURCE_EXHAUSTED
    kRefused,  // it will never run this sequence
    kGone,  // UNAVAILABLE: lost once the directory drops it; until then it may be a short break of
            // the network
    kFailed,  // it answered with an error, or made no progress: lost
  };

  void Add(Kind kind, std::shared_ptr<attention::AttentionBackend> backend, absl::Time now);
  // A new token: all is forgotten.
  void Clear();

  // Takes note of who is there: a kGone node that is no longer listed is lost for good; one that
  // drains was no trouble.
  void Observe(const std::vector<AttentionNode>& listed);
  int lost() const;
  // kGone and listed, as last observed.
  int suspects() const;
  bool newest_is_suspect() const;

  // Nodes that may be tried now: neither draining nor avoided. A node is avoided for 0.1 s after
  // its trouble, twice as long with each further one up to 2 s; after kRefused for ever.
  std::vector<AttentionNode> Usable(const std::vector<AttentionNode>& listed, absl::Time now) const;
  // When the next avoided node may be tried again; InfiniteFuture: none.
  absl::Time next_retry(absl::Time now) const;
  // There are nodes that take sequences, and each of them is avoided for this reason.
  bool AllAre(Kind kind, const std::vector<AttentionNode>& listed, absl::Time now) const;

 private:
  struct Trouble {
    Kind kind;
    std::shared_ptr<attention::AttentionBackend>
        backend;  // kept, so that its address names it alone
    absl::Time avoid_until;
    bool lost;
  };
  const Trouble* Avoided(const AttentionNode& node, absl::Time now) const;

  std::vector<Trouble> troubles_;  // oldest first
  int num_added_ = 0;
};

}  // namespace atl::front_door
