// One thread's loop over sockets, timers and posted functions. Everything that moves rows runs on
// such a loop: no locks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "base/status.h"

namespace atl::transport {

// What a loop must ask, since no descriptor tells: memory that another process writes. Every call
// comes from the loop's thread, and none makes the loop wait.
class Poller {
 public:
  // There is something for Run to do. No system call.
  virtual bool Ready() = 0;
  // May remove any poller, this one included.
  virtual void Run() = 0;
  // True: the loop is about to sleep, so from now on whoever has something for this poller must
  // also make a descriptor ready that the loop watches; Ready is asked once more after this. False:
  // the loop is awake.
  virtual void SetAsleep(bool asleep) = 0;

 protected:
  ~Poller() = default;
};

// Thread-compatible: owned by one thread, which calls RunOnce; all but Post are for that thread
// alone (or before it starts).
class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Any thread. Runs `fn` on the loop's thread, in the order of the calls; wakes the loop if it
  // waits. A function posted from the loop's own thread runs in the next RunOnce, without a system
  // call. Functions still queued when the loop dies are dropped.
  void Post(std::function<void()> fn);

  // Waits at most `timeout` for something to be ready, then runs all that is: descriptors, due
  // timers, posted functions. Returns at once if something was posted. `timeout` may be zero (poll)
  // or infinite. Callbacks may call anything here but RunOnce.
  void RunOnce(absl::Duration timeout);

  // Level-triggered. `events`: EPOLLIN, EPOLLOUT, EPOLLRDHUP (EPOLLERR and EPOLLHUP are always
  // told). The callback gets the events that are ready, and may unwatch. REQUIRES fd is not watched
  // yet; Unwatch before closing it.
  void Watch(int fd, uint32_t events, std::function<void(uint32_t)> on_ready);
  void Rearm(int fd, uint32_t events);
  void Unwatch(int fd);

  // Asks `poller` in every turn, until it is removed, which must be before it dies.
  void AddPoller(Poller* poller);
  void RemovePoller(Poller* poller);

  // How long RunOnce asks descriptors, pollers and posts in turn before it sleeps: a wake-up costs
  // tens of microseconds. Only for threads that have a core to themselves; 0 unless set.
  void SetSpin(absl::Duration spin);

  // Runs `fn` once, at or after `when` (a later jump of the wall clock does not move it). Returns
  // an id for CancelTimer, never 0; cancelling one that ran, or 0, does nothing.
  uint64_t RunAt(absl::Time when, std::function<void()> fn);
  void CancelTimer(uint64_t id);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atl::transport
