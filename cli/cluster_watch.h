// What a supervisor knows of the cluster from its routers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "atollpb/v1/cluster.grpc.pb.h"

namespace atl::cli {

struct ClusterState {
  bool complete = false;    // every router is ready, has coverage and sees every expected node
  std::string waiting_for;  // if not: one line why
  struct Holds {
    int64_t experts = 0;
    int64_t sequences = 0;
  };
  std::map<std::string, Holds> holds;  // by node name; as the first router that answers says
};

// Reduces what the routers answered (null: no answer) to a state. Pure.
ClusterState SummarizeCluster(const std::vector<std::string>& routers,
                              const std::vector<const atollpb::v1::GetSnapshotResponse*>& answers,
                              const std::vector<std::string>& expected_nodes);

// Asks every router for its snapshot, five times a second, on a thread of its own. Thread-safe.
class ClusterWatch {
 public:
  ClusterWatch(const std::vector<std::string>& router_addresses,
               const std::vector<std::string>& expected_nodes);
  ~ClusterWatch();
  ClusterState Latest() const;

 private:
  void Loop();

  const std::vector<std::string> routers_;
  const std::vector<std::string> expected_nodes_;
  std::vector<std::unique_ptr<atollpb::v1::ClusterService::Stub>> stubs_;
  mutable absl::Mutex mu_;
  ClusterState state_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace atl::cli
