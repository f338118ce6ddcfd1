// The server's end of one Join stream.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "atollpb/v1/cluster.grpc.pb.h"
#include "base/status.h"

namespace atl::cluster {

namespace pb = ::atollpb::v1;

class ClusterService;

// Keeps itself alive until gRPC is done with it. Thread-safe.
class JoinSession final : public grpc::ServerBidiReactor<pb::JoinRequest, pb::JoinResponse>,
                          public std::enable_shared_from_this<JoinSession> {
 public:
  static std::shared_ptr<JoinSession> Open(ClusterService* service,
                                           grpc::CallbackServerContext* context);

  // Each replaces what of its kind has not been sent yet.
  void SendView(std::shared_ptr<const pb::JoinResponse> view);
  void SendCommand(const pb::ExpertCommand& command);
  // An empty message, if nothing was sent for `interval`.
  void MaybeHeartbeat(absl::Duration interval);
  // Ends the stream with `status`; only the first call counts.
  void End(const Status& status);

  bool ended() const;
  absl::Duration last_heard() const;

  // Of the node that announced itself here; the service's, under its lock.
  std::string node;
  uint64_t incarnation = 0;

 private:
  JoinSession(ClusterService* service, grpc::CallbackServerContext* context);
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MaybeFinish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  ClusterService* const service_;
  grpc::CallbackServerContext* const context_;
  pb::JoinRequest request_;            // of the read under way
  std::shared_ptr<JoinSession> self_;  // until OnDone

  mutable absl::Mutex mu_;
  std::shared_ptr<const pb::JoinResponse> writing_
      ABSL_GUARDED_BY(mu_);  // null: no write under way
  std::shared_ptr<const pb::JoinResponse> view_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const pb::JoinResponse> command_ ABSL_GUARDED_BY(mu_);
  bool heartbeat_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<Status> end_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration last_heard_ ABSL_GUARDED_BY(mu_);
  absl::Duration last_sent_ ABSL_GUARDED_BY(mu_);
};

}  // namespace atl::cluster
