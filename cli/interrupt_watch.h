// Ctrl-C in a client: heard on a thread of its own, so that it can end a call under way.
#pragma once

#include <functional>
#include <thread>

namespace atl::cli {

// Calls `on_interrupt` on a thread of its own for each SIGINT. One at a time. Thread-compatible.
class InterruptWatch {
 public:
  // Blocks SIGINT in this thread and those it starts later: first in main, before any library
  // starts threads.
  static void Block();

  // REQUIRES: Block was called.
  explicit InterruptWatch(std::function<void()> on_interrupt);
  ~InterruptWatch();  // no call after it has returned

 private:
  void Loop();

  const std::function<void()> on_interrupt_;
  int signal_fd_ = -1;
  int stop_fd_ = -1;
  std::thread thread_;
};

}  // namespace atl::cli
