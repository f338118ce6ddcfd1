#include "cluster/join_session.h"

#include <utility>

#include "cluster/cluster_service.h"
#include "cluster/uptime.h"
#include "rpc/status.h"

namespace atl::cluster {

std::shared_ptr<JoinSession> JoinSession::Open(ClusterService* service,
                                               grpc::CallbackServerContext* context) {
  auto session = std::shared_ptr<JoinSession>(new JoinSession(service, context));
  session->self_ = session;
  session->StartRead(&session->request_);
  return session;
}

JoinSession::JoinSession(ClusterService* service, grpc::CallbackServerContext* context)
    : service_(service), context_(context), last_heard_(Uptime()), last_sent_(Uptime()) {}

void JoinSession::SendView(std::shared_ptr<const pb::JoinResponse> view) {
  absl::MutexLock lock(&mu_);
  view_ = std::move(view);
  MaybeWrite();
}

void JoinSession::SendCommand(const pb::ExpertCommand& command) {
  auto message = std::make_shared<pb::JoinResponse>();
  *message->mutable_command() = command;
  absl::MutexLock lock(&mu_);
  command_ = std::move(message);
  MaybeWrite();
}

void JoinSession::MaybeHeartbeat(absl::Duration interval) {
  absl::MutexLock lock(&mu_);
  if (writing_ != nullptr || Uptime() - last_sent_ < interval) return;
  heartbeat_ = true;
  MaybeWrite();
}

void JoinSession::End(const Status& status) {
  {
    absl::MutexLock lock(&mu_);
    if (end_.has_value()) return;
    end_ = status;
  }
  service_->OnEnded(
      shared_from_this());  // first: who sees the stream end must not see the node live on
  absl::MutexLock lock(&mu_);
  if (writing_ != nullptr) {
    context_->TryCancel();  // a peer that reads nothing would hold the status back: OnWriteDone
                            // finishes
  } else {
    MaybeFinish();
  }
}

void JoinSession::MaybeFinish() {
  if (std::exchange(finished_, true)) return;
  Finish(rpc::ToGrpc(*end_));
}

bool JoinSession::ended() const {
  absl::MutexLock lock(&mu_);
  return end_.has_value();
}

absl::Duration JoinSession::last_heard() const {
  absl::MutexLock lock(&mu_);
  return last_heard_;
}

void JoinSession::MaybeWrite() {
  if (writing_ != nullptr || end_.has_value()) return;
  if (command_ != nullptr) {
    writing_ = std::exchange(command_, nullptr);
  } else if (view_ != nullptr) {
    writing_ = std::exchange(view_, nullptr);
  } else if (heartbeat_) {
    writing_ = std::make_shared<const pb::JoinResponse>();
  } else {
    return;
  }
  heartbeat_ = false;
  last_sent_ = Uptime();
  StartWrite(writing_.get());
}

void JoinSession::OnReadDone(bool ok) {
  if (!ok) return End(absl::OkStatus());
  {
    absl::MutexLock lock(&mu_);
    last_heard_ = Uptime();
  }
  const Status status = service_->OnAnnouncement(shared_from_this(), request_.announcement());
  if (!status.ok()) return End(status);
  StartRead(&request_);
}

void JoinSession::OnWriteDone(bool) {
  absl::MutexLock lock(&mu_);
  writing_ = nullptr;
  if (end_.has_value()) {
    MaybeFinish();
  } else {
    MaybeWrite();
  }
}

void JoinSession::OnCancel() { End(absl::CancelledError("the node is gone")); }

void JoinSession::OnDone() {
  const auto self = std::move(self_);
  service_->OnDone(self);
}

}  // namespace atl::cluster
