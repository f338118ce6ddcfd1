#include "cluster/join_stream.h"

#include <utility>

#include "rpc/channel.h"
#include "rpc/status.h"

namespace atl::cluster {

void JoinInbox::Put(Event event) {
  absl::MutexLock lock(&mu_);
  events_.push_back(std::move(event));
}

void JoinInbox::Wake() {
  absl::MutexLock lock(&mu_);
  woken_ = true;
}

std::vector<JoinInbox::Event> JoinInbox::Take(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  const auto ready = [this]()
                         ABSL_SHARED_LOCKS_REQUIRED(mu_) { return woken_ || !events_.empty(); };
  mu_.AwaitWithTimeout(absl::Condition(&ready), timeout);
  woken_ = false;
  return std::exchange(events_, {});
}

std::shared_ptr<JoinStream> JoinStream::Open(uint64_t id, const std::string& address,
                                             std::shared_ptr<JoinInbox> inbox) {
  auto stream = std::shared_ptr<JoinStream>(new JoinStream(id, std::move(inbox)));
  stream->self_ = stream;
  stream->stub_ = pb::ClusterService::NewStub(rpc::MakeChannel(address));
  stream->stub_->async()->Join(&stream->context_, stream.get());
  stream->AddHold();  // Announce writes from outside: no OnDone before OnReadDone(false) has closed
                      // that way
  stream->StartRead(&stream->response_);
  stream->StartCall();
  return stream;
}

void JoinStream::Announce(const pb::Announcement& announcement) {
  absl::MutexLock lock(&mu_);
  if (closed_) return;
  next_ = announcement;
  if (!writing_) WriteNext();
}

void JoinStream::WriteNext() {
  *request_.mutable_announcement() = *std::exchange(next_, std::nullopt);
  writing_ = true;
  StartWrite(&request_);
}

void JoinStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  if (ok && !closed_ && next_.has_value()) WriteNext();
}

void JoinStream::OnReadDone(bool ok) {
  if (ok) {
    inbox_->Put({.stream_id = id_, .message = std::move(response_)});
    return;
  }
  {
    absl::MutexLock lock(&mu_);
    closed_ = true;
  }
  RemoveHold();
}

void JoinStream::ReadNext() {
  absl::MutexLock lock(&mu_);
  if (closed_) return;
  response_.Clear();
  StartRead(&response_);
}

void JoinStream::OnDone(const grpc::Status& status) {
  inbox_->Put({.stream_id = id_, .end = rpc::FromGrpc(status)});
  const auto self = std::move(self_);
}

}  // namespace atl::cluster
