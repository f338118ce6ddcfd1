#include "router_service/front_door/session.h"

#include <algorithm>
#include <utility>

#include "attention_service/client/prefix_hash.h"
#include "base/log.h"
#include "router_service/front_door/session_run.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

}  // namespace

Session::Session(Sessions* sessions, ResolvedRequest request, ResponseSink* sink,
                 absl::Time arrival, absl::Time deadline)
    : sessions_(sessions),
      scheduler_(sessions->scheduler_),
      options_(sessions->options_),
      arrival_(arrival),
      deadline_(deadline),
      num_resumed_(request.start.generated_ids_size()),
      request_(std::move(request)),
      sink_(sink),
      text_(sessions->tokenizer_, request_.stop) {}

Session::~Session() = default;

void Session::Enqueue(std::function<void()> event) {
  const std::shared_ptr<Session> self = shared_from_this();
  mu_.Lock();
  events_.push_back(std::move(event));
  if (handling_) {
    mu_.Unlock();
    return;
  }
  handling_ = true;
  while (!events_.empty()) {
    std::function<void()> next = std::move(events_.front());
    events_.pop_front();
    mu_.Unlock();
    if (state_ != State::kEnded) {
      next();
      ArmTimer();
    }
    next = nullptr;
    mu_.Lock();
  }
  handling_ = false;
  mu_.Unlock();
}

void Session::Begin() {
  Enqueue([this] { DoBegin(); });
}

void Session::Cancel() {
  Enqueue([this] { DoCancel(); });
}

void Session::Admit() {
  Enqueue([this] {
    stalled_since_ = scheduler_->Now();
    Seek();
  });
}

void Session::LookAgain() {
  Enqueue([this] {
    if (state_ == State::kSeeking) Seek();
  });
}

void Session::End(const RequestError& error) {
  Enqueue([this, error] { DoEnd(error); });
}

void Session::DoBegin() {
  const absl::Time now = scheduler_->Now();
  if (now >= deadline_) return DoCancel();
  if (const pb::FinishReason reason = EndedByResume(); reason != pb::FINISH_REASON_UNSPECIFIED)
    return Finish(reason);
  switch (sessions_->Enter(shared_from_this())) {
    case Sessions::Place::kRunning:
      stalled_since_ = now;
      return Seek();
    case Sessions::Place::kQueued:
      state_ = State::kQueued;
      return;
    case Sessions::Place::kFull:
      return DoEnd(QueueFull(options_.max_queued_requests));
    case Sessions::Place::kStopped:
      return DoEnd(ShuttingDown());
  }
}

void Session::DoCancel() {
  if (scheduler_->Now() >= deadline_) {
    return DoEnd(RequestError::Of(
        DeadlineExceeded("the request's deadline passed after %s, with %d new tokens",
                         absl::FormatDuration(scheduler_->Now() - arrival_), num_new_tokens())));
  }
  DoEnd(RequestError::Of(Cancelled("the client has gone, after %d new tokens", num_new_tokens())));
}

void Session::DoEnd(const RequestError& error) {
  state_ = State::kEnded;
  DropRun();
  scheduler_->Cancel(timer_);
  sessions_->Count(error.status.code(), Stats());
  // Its place is free before its client hears of the end, and may ask again.
  sessions_->Leave(this);
  std::exchange(sink_, nullptr)->Done(error);
}

void Session::ArmTimer() {
  if (state_ == State::kEnded) return;
  absl::Time wake = deadline_;
  if (state_ == State::kSeeking) wake = std::min(wake, seek_wake_);
  if (state_ == State::kRunning) wake = std::min(wake, run_->last_progress + run_->patience);
  // One that fires too early arms itself again: a token need not move the timer.
  if (timer_at_ <= wake) return;
  scheduler_->Cancel(timer_);
  timer_at_ = wake;
  timer_ = scheduler_->At(wake, [weak = weak_from_this()] {
    if (const auto self = weak.lock())
      self->Enqueue([session = self.get()] { session->OnTimer(); });
  });
}

void Session::OnTimer() {
  timer_ = 0;
  timer_at_ = absl::InfiniteFuture();
  const absl::Time now = scheduler_->Now();
  if (now >= deadline_) return DoCancel();
  if (state_ == State::kSeeking) return Seek();
  if (state_ != State::kRunning || now < run_->last_progress + run_->patience) return;
  // While the node answers others, this one waits for its turn there.
  run_->last_progress =
      std::max(run_->last_progress, sessions_->node_use_.last_progress(run_->node.name));
  if (now < run_->last_progress + run_->patience) return;
  OnRunFailed(NodeTroubles::Kind::kFailed,
              DeadlineExceeded("expected a token within %s, found none",
                               absl::FormatDuration(run_->patience)));
}

void Session::Seek() {
  state_ = State::kSeeking;
  const absl::Time now = scheduler_->Now();
  const std::vector<AttentionNode> listed = sessions_->directory_->List();
  troubles_.Observe(listed);
  const bool stalled = now - stalled_since_ >= options_.coverage_timeout;
  const bool last_straw = troubles_.lost() + troubles_.suspects() >= options_.max_lost_nodes;
  if (troubles_.newest_is_suspect() && (stalled || last_straw) && now < settle_until_) {
    return WaitForNode(now, settle_until_);
  }
  if (RequestError error = GiveUp(listed, now); !error.ok()) return DoEnd(error);
  const std::vector<AttentionNode> usable = troubles_.Usable(listed, now);
  if (usable.empty()) return WaitForNode(now, troubles_.next_retry(now));
  const pb::RunStart& start = request_.start;
  std::vector<uint32_t> ids(start.prompt_ids().begin(), start.prompt_ids().end());
  ids.insert(ids.end(), start.generated_ids().begin(), start.generated_ids().end());
  StartRun(*ChooseNode(usable,
                       attention::PrefixHashes(ids, start.bias_version(), request_.num_expanded),
                       sessions_->node_use_));
}

RequestError Session::GiveUp(const std::vector<AttentionNode>& listed, absl::Time now) {
  if (troubles_.lost() >= options_.max_lost_nodes) {
    LogError(
        "request %s: lost %d attention nodes since its last new token; it is not tried again; "
        "last: %s",
        request_.request_id, troubles_.lost(), std::string(last_error_.message()));
    return RequestError::Of(
        Internal("request %s has lost %d attention nodes since its last new token, last: %s",
                 request_.request_id, troubles_.lost(), std::string(last_error_.message())));
  }
  // A node that is alive and says so itself: experts were missing for too long, at any other node
  // too.
  if (troubles_.newest_is_suspect() && now - stalled_since_ >= options_.coverage_timeout) {
    return RequestError::RetryLater(last_error_, kUnavailableRetry);
  }
  if (troubles_.AllAre(NodeTroubles::Kind::kRefused, listed, now))
    return RequestError::Of(last_error_);
  // One that has begun waits for room: its client would lose what it has.
  if (num_new_tokens() == 0 && troubles_.AllAre(NodeTroubles::Kind::kFull, listed, now)) {
    return RequestError::RetryLater(
        ResourceExhausted("the queues of all attention nodes are full; last: %s",
                          std::string(last_error_.message())),
        kQueueFullRetry);
  }
  if (now - outage_since_ >= options_.coverage_timeout) {
    const std::string cause =
        last_error_.ok() ? "" : "; last: " + std::string(last_error_.message());
    return RequestError::RetryLater(
        Unavailable("no attention node for %s%s", absl::FormatDuration(options_.coverage_timeout),
                    cause),
        kUnavailableRetry);
  }
  return {};
}

void Session::WaitForNode(absl::Time now, absl::Time wake) {
  outage_since_ = std::min(outage_since_, now);
  seek_wake_ = std::min(wake, outage_since_ + options_.coverage_timeout);
}

}  // namespace atl::front_door
