// The planner at work: in every router, but only the live one of lowest rank plans.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cluster/planner.h"
#include "cluster/view.h"

namespace atl::cluster {

struct PlannerOptions {
  std::string router;  // this one's name
  ModelExperts model;  // bytes are told by the expert nodes
  int min_replicas = 1;
  // Quiet time of the membership before targets are made anew (ten times that at most).
  absl::Duration settle = absl::Milliseconds(300);
  // A router that finds a cluster already at work waits so long after its start for all nodes to
  // join it.
  absl::Duration restart_wait = absl::Milliseconds(1500);
  // A command that has not been carried out is sent again after this.
  absl::Duration repeat = absl::Seconds(1);
};

// Targets are made anew when an expert node comes, goes or drains; between, announced holds change
// only what may be given up.
class PlannerThread {
 public:
  using SendCommand =
      std::function<void(const std::string& node, const pb::ExpertCommand& command)>;

  // `state` outlives it. `send` and on_term (the term has changed) are called on the planner's
  // thread.
  PlannerThread(ClusterState* state, PlannerOptions options, SendCommand send,
                std::function<void()> on_term);
  ~PlannerThread();

  // The term that this router plans with, or last planned with; 0: never. Any thread.
  uint64_t term() const;

 private:
  struct Sent {
    uint64_t incarnation = 0;
    std::string bytes;
    absl::Duration at;
  };

  void Run();
  void Step();
  // The membership has changed, and been quiet since.
  bool PlanIsDue() const;
  // Takes a term above all that nodes announce, when this router begins to plan or sees a higher
  // one. False: it must not plan yet.
  bool TakeTerm(const NodeList& nodes);
  void Plan(const NodeList& experts);
  // Sends what each node is to do, where that has changed or has not been done for a while.
  void Command(const NodeList& experts);
  void MaybeSend(const pb::NodeInfo& to, bool done, const pb::ExpertCommand& command);
  PlanInput MakeInput(const NodeList& experts) const;

  ClusterState* const state_;
  const PlannerOptions options_;
  const SendCommand send_;
  const std::function<void()> on_term_;
  const absl::Duration started_;

  // The planner's thread only.
  bool planning_ = false;  // a term has been taken
  absl::Duration term_taken_ = -absl::InfiniteDuration();
  std::string members_;                       // of the view last seen
  std::optional<absl::Duration> changed_at_;  // members changed and there is no plan for them yet
  std::optional<absl::Duration> first_change_;
  std::optional<Targets> targets_;
  std::string last_error_;            // logged already
  std::map<std::string, Sent> sent_;  // by node
  NodeList experts_;                  // as last commanded
  bool all_done_ = false;             // every command is carried out

  mutable absl::Mutex mu_;
  uint64_t term_ ABSL_GUARDED_BY(mu_) = 0;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace atl::cluster
