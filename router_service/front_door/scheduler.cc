#include "router_service/front_door/scheduler.h"

#include <pthread.h>

#include <chrono>

#include "absl/time/clock.h"

namespace atl::front_door {

Scheduler::TimerId TimerQueue::Add(absl::Time when, std::function<void()> fn) {
  const Scheduler::TimerId id = ++last_;
  times_.emplace(id, when);
  timers_.emplace(std::make_pair(when, id), std::move(fn));
  return id;
}

void TimerQueue::Remove(Scheduler::TimerId timer) {
  const auto it = times_.find(timer);
  if (it == times_.end()) return;
  timers_.erase({it->second, timer});
  times_.erase(it);
}

std::function<void()> TimerQueue::TakeDue(absl::Time now) {
  if (timers_.empty() || next() > now) return nullptr;
  std::function<void()> fn = std::move(timers_.begin()->second);
  times_.erase(timers_.begin()->first.second);
  timers_.erase(timers_.begin());
  return fn;
}

ThreadScheduler::ThreadScheduler() : thread_([this] { Loop(); }) {
  pthread_setname_np(thread_.native_handle(), "front-door");
}

ThreadScheduler::~ThreadScheduler() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.Signal();
  }
  thread_.join();
}

absl::Time ThreadScheduler::Now() const {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

Scheduler::TimerId ThreadScheduler::At(absl::Time when, std::function<void()> fn) {
  absl::MutexLock lock(&mu_);
  const bool first = when < timers_.next();
  const TimerId id = timers_.Add(when, std::move(fn));
  if (first) changed_.Signal();
  return id;
}

void ThreadScheduler::Cancel(TimerId timer) {
  absl::MutexLock lock(&mu_);
  timers_.Remove(timer);
}

void ThreadScheduler::Loop() {
  mu_.Lock();
  for (;;) {
    if (std::function<void()> fn = timers_.TakeDue(Now())) {
      mu_.Unlock();
      fn();
      fn = nullptr;  // what it holds goes before the lock comes back
      mu_.Lock();
    } else if (stopping_) {
      break;
    } else {
      changed_.WaitWithTimeout(&mu_, timers_.next() - Now());
    }
  }
  mu_.Unlock();
}

}  // namespace atl::front_door
