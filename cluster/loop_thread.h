// A thread that runs an event loop.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "transport/event_loop.h"

namespace atl::cluster {

// What lives on the loop is made before Start, and destroyed after Stop or by a function posted to
// it.
class LoopThread {
 public:
  explicit LoopThread(std::string name) : name_(std::move(name)) {}
  ~LoopThread() { Stop(); }

  transport::EventLoop* loop() { return &loop_; }
  void Start();
  // Runs what has been posted before, then ends the thread. Later posts are dropped with the loop.
  void Stop();

  // Runs `fn` on the loop and waits for it; false: not done within `timeout` (it may still run
  // later, so it must own what it touches). REQUIRES: not on the loop's thread.
  bool Call(std::function<void()> fn, absl::Duration timeout);

 private:
  const std::string name_;
  transport::EventLoop loop_;
  bool stop_ = false;  // of the loop's thread
  std::thread thread_;
};

}  // namespace atl::cluster
