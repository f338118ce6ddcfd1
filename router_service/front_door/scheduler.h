// The front door's clock and its timers: the seam that tests move by hand.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace atl::front_door {

// Thread-safe. Functions run one after another, on one thread, with no lock held, and must not
// block for long.
class Scheduler {
 public:
  using TimerId = uint64_t;  // 0 is never given out
  virtual ~Scheduler() = default;
  virtual absl::Time Now() const = 0;
  virtual TimerId At(absl::Time when, std::function<void()> fn) = 0;
  // A function that has begun still runs to its end.
  virtual void Cancel(TimerId timer) = 0;
  // As soon as may be.
  void Post(std::function<void()> fn) { At(absl::InfinitePast(), std::move(fn)); }
};

// Timers waiting, earliest first; equal times in the order of their making. Thread-compatible.
class TimerQueue {
 public:
  Scheduler::TimerId Add(absl::Time when, std::function<void()> fn);
  void Remove(Scheduler::TimerId timer);
  // InfiniteFuture: none.
  absl::Time next() const {
    return timers_.empty() ? absl::InfiniteFuture() : timers_.begin()->first.first;
  }
  // Takes the first one if it is due; null otherwise.
  std::function<void()> TakeDue(absl::Time now);

 private:
  std::map<std::pair<absl::Time, Scheduler::TimerId>, std::function<void()>> timers_;
  std::map<Scheduler::TimerId, absl::Time> times_;
  Scheduler::TimerId last_ = 0;
};

// On a thread of its own. Time runs with the steady clock: setting the machine's clock moves no
// timer.
class ThreadScheduler : public Scheduler {
 public:
  ThreadScheduler();
  // Runs what is due, drops the rest, joins.
  ~ThreadScheduler() override;
  absl::Time Now() const override;
  TimerId At(absl::Time when, std::function<void()> fn) override;
  void Cancel(TimerId timer) override;

 private:
  void Loop();

  absl::Mutex mu_;
  absl::CondVar changed_;
  TimerQueue timers_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace atl::front_door
