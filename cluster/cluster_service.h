// The router's side of membership: Join streams in, views and commands out.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "atollpb/v1/cluster.grpc.pb.h"
#include "base/status.h"
#include "cluster/view.h"

namespace atl::cluster {

class JoinSession;

struct ClusterServiceOptions {
  std::string router;    // this router's name
  std::string revision;  // nodes must have the same
  std::string numerics_id;
  uint32_t protocol_version = 0;
  ModelExperts model;                         // for GetSnapshot
  absl::Duration silence = absl::Seconds(3);  // a node that announces nothing for so long is dead
  absl::Duration coalesce = absl::Milliseconds(20);  // between a change and the views sent
  absl::Duration load_interval = absl::Seconds(1);   // between views that tell of load alone
  absl::Duration heartbeat =
      absl::Milliseconds(500);  // an empty message where there was nothing to say
};

// Thread-safe. Views go out on a thread of its own; their cached_prefixes are left out (routers
// read them where they are announced).
class ClusterService final : public pb::ClusterService::CallbackService {
 public:
  // `state` must outlive it; this router's own announcement is its owner's to make.
  ClusterService(ClusterState* state, ClusterServiceOptions options);
  ~ClusterService() override;  // REQUIRES: the server has stopped

  // To a node that has joined here: in place of an earlier command that has not been sent yet. Does
  // nothing if there is none.
  void SendCommand(const std::string& node, const pb::ExpertCommand& command);
  // Ends all streams, and new ones at once, with UNAVAILABLE: before the server stops, which waits
  // for them.
  void Stop();

  grpc::ServerBidiReactor<pb::JoinRequest, pb::JoinResponse>* Join(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetSnapshot(grpc::CallbackServerContext* context,
                                        const pb::GetSnapshotRequest* request,
                                        pb::GetSnapshotResponse* response) override;

 private:
  friend class JoinSession;

  // From sessions. An error ends the stream with it.
  Status OnAnnouncement(const std::shared_ptr<JoinSession>& session,
                        const pb::Announcement& announcement);
  void OnEnded(const std::shared_ptr<JoinSession>& session);
  void OnDone(const std::shared_ptr<JoinSession>& session);
  Status CheckNode(const pb::NodeInfo& info) const;

  void Push();
  void PushView(const std::vector<std::shared_ptr<JoinSession>>& sessions);
  pb::ClusterView MakeView(bool with_prefixes) const;

  ClusterState* const state_;
  const ClusterServiceOptions options_;

  absl::Mutex mu_;
  std::vector<std::shared_ptr<JoinSession>> sessions_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::vector<std::shared_ptr<JoinSession>>> joined_
      ABSL_GUARDED_BY(mu_);  // by node, last one last
  bool structure_changed_ ABSL_GUARDED_BY(mu_) = false;
  bool load_changed_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;
};

}  // namespace atl::cluster
