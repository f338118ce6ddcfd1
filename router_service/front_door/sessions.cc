#include "router_service/front_door/sessions.h"

#include <utility>

#include "router_service/front_door/session.h"

namespace atl::front_door {
namespace {

constexpr int64_t kMaxTokenizingBytes = int64_t{16} << 20;

}  // namespace

RequestError QueueFull(int max_queued) {
  return RequestError::RetryLater(
      ResourceExhausted("the router's queue is full: expected fewer than %d waiting requests",
                        max_queued),
      kQueueFullRetry);
}

RequestError ShuttingDown() {
  return RequestError::RetryLater(Unavailable("the router is shutting down"), kUnavailableRetry);
}

Sessions::Sessions(const text::Tokenizer* tokenizer, const AttentionDirectory* directory,
                   const FrontDoorOptions& options, Scheduler* scheduler)
    : tokenizer_(tokenizer), directory_(directory), options_(options), scheduler_(scheduler) {}

RequestError Sessions::CheckAdmission() const {
  absl::MutexLock lock(&mu_);
  if (stopped_) return ShuttingDown();
  if (static_cast<int>(running_.size()) < options_.max_concurrent_requests) return {};
  if (static_cast<int>(queue_.size()) < options_.max_queued_requests) return {};
  return QueueFull(options_.max_queued_requests);
}

bool Sessions::BeginTokenizing(int64_t bytes) {
  if (bytes == 0) return true;
  const int64_t others = tokenizing_bytes_.fetch_add(bytes);
  if (others == 0 || others + bytes <= kMaxTokenizingBytes) return true;
  tokenizing_bytes_.fetch_sub(bytes);
  return false;
}

void Sessions::EndTokenizing(int64_t bytes) { tokenizing_bytes_.fetch_sub(bytes); }

std::shared_ptr<Session> Sessions::Start(ResolvedRequest request, ResponseSink* sink,
                                         absl::Time arrival, absl::Time deadline) {
  auto session = std::make_shared<Session>(this, std::move(request), sink, arrival, deadline);
  session->Begin();
  return session;
}

Sessions::Place Sessions::Enter(std::shared_ptr<Session> session) {
  absl::MutexLock lock(&mu_);
  if (stopped_) return Place::kStopped;
  Session* key = session.get();
  if (static_cast<int>(running_.size()) < options_.max_concurrent_requests) {
    running_.emplace(key, std::move(session));
    return Place::kRunning;
  }
  if (static_cast<int>(queue_.size()) >= options_.max_queued_requests) return Place::kFull;
  tickets_[key] = ++last_ticket_;
  queue_.emplace(last_ticket_, std::move(session));
  return Place::kQueued;
}

void Sessions::Leave(Session* session) {
  std::shared_ptr<Session> next;
  {
    absl::MutexLock lock(&mu_);
    if (const auto ticket = tickets_.find(session); ticket != tickets_.end()) {
      queue_.erase(ticket->second);
      tickets_.erase(ticket);
      return;
    }
    if (running_.erase(session) == 0) return;
    if (queue_.empty()) return;
    next = std::move(queue_.begin()->second);
    queue_.erase(queue_.begin());
    tickets_.erase(next.get());
    running_.emplace(next.get(), next);
  }
  // Not from here: each would start the next one, deeper and deeper.
  scheduler_->Post([next] { next->Admit(); });
}

std::vector<std::shared_ptr<Session>> Sessions::All() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::shared_ptr<Session>> all;
  for (const auto& [key, session] : running_) all.push_back(session);
  for (const auto& [ticket, session] : queue_) all.push_back(session);
  return all;
}

void Sessions::OnDirectoryChanged() {
  {
    absl::MutexLock lock(&mu_);
    if (look_posted_) return;
    look_posted_ = true;
  }
  // Not on the caller's thread: sessions ask the directory, which may be holding its lock.
  scheduler_->Post([this] {
    {
      absl::MutexLock lock(&mu_);
      look_posted_ = false;
    }
    for (const auto& session : All()) session->LookAgain();
  });
}

void Sessions::StopAdmitting() {
  absl::MutexLock lock(&mu_);
  stopped_ = true;
}

void Sessions::EndAll() {
  // Queued ones first: none of them gets the place of one that ends.
  std::vector<std::shared_ptr<Session>> all = All();
  for (auto it = all.rbegin(); it != all.rend(); ++it) (*it)->End(ShuttingDown());
}

int Sessions::num_running() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(running_.size());
}

void Sessions::Count(absl::StatusCode code, const FrontDoorStats& ended) {
  absl::MutexLock lock(&mu_);
  ++stats_.requests[code];
  stats_.prompt_tokens += ended.prompt_tokens;
  stats_.cached_prompt_tokens += ended.cached_prompt_tokens;
  stats_.replays += ended.replays;
}

FrontDoorStats Sessions::stats() const {
  absl::MutexLock lock(&mu_);
  return stats_;
}

int Sessions::num_queued() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(queue_.size());
}

bool Sessions::WaitUntilIdle(absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return running_.empty() && queue_.empty();
  };
  return mu_.AwaitWithTimeout(absl::Condition(&idle), timeout);
}

}  // namespace atl::front_door
