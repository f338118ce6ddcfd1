// One Join stream to one router. What happens on it is put into an inbox that the join client's
// thread empties.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "atollpb/v1/cluster.grpc.pb.h"
#include "base/status.h"

namespace atl::cluster {

namespace pb = ::atollpb::v1;

// Thread-safe.
class JoinInbox {
 public:
  struct Event {
    uint64_t stream_id = 0;
    pb::JoinResponse message;
    std::optional<Status> end;  // the stream's last event, without a message
  };
  void Put(Event event);
  void Wake();
  // All events so far; waits for the first one, or a Wake, at most `timeout`.
  std::vector<Event> Take(absl::Duration timeout);

 private:
  absl::Mutex mu_;
  std::vector<Event> events_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
};

// Keeps itself alive until its end event has been put. Thread-safe.
class JoinStream final : public grpc::ClientBidiReactor<pb::JoinRequest, pb::JoinResponse> {
 public:
  static std::shared_ptr<JoinStream> Open(uint64_t id, const std::string& address,
                                          std::shared_ptr<JoinInbox> inbox);

  // Sends it, or in its place what is announced later, before it could be sent.
  void Announce(const pb::Announcement& announcement);
  // Asks for the next message, after the last one has been handled: an inbox holds one event a
  // stream.
  void ReadNext();
  void Cancel() { context_.TryCancel(); }

 private:
  JoinStream(uint64_t id, std::shared_ptr<JoinInbox> inbox) : id_(id), inbox_(std::move(inbox)) {}
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint64_t id_;
  const std::shared_ptr<JoinInbox> inbox_;
  std::unique_ptr<pb::ClusterService::Stub> stub_;
  grpc::ClientContext context_;
  pb::JoinResponse response_;         // of the read under way
  std::shared_ptr<JoinStream> self_;  // until OnDone

  absl::Mutex mu_;
  pb::JoinRequest request_ ABSL_GUARDED_BY(mu_);  // of the write under way
  std::optional<pb::Announcement> next_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace atl::cluster
