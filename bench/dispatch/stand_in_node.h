// An expert node without experts.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>

#include "absl/time/time.h"
#include "transport/event_loop.h"
#include "transport/frame.h"
#include "transport/link.h"

namespace atl::bench {

// Answers each work frame with rows of zeros, as an expert node would after computing its pairs one
// after another. That time passes without taking the core: a timer of the loop sends the answer, so
// any number of nodes compute at the same time. Lives on `loop`'s thread, or before and after it.
class StandInNode {
 public:
  // per_pair zero: answers at once, from inside the frame's callback.
  StandInNode(transport::EventLoop* loop, const transport::PayloadShape& shape,
              absl::Duration per_pair, std::unique_ptr<transport::Link> link);
  ~StandInNode();
  StandInNode(const StandInNode&) = delete;
  StandInNode& operator=(const StandInNode&) = delete;

  // Of all work so far. Any thread.
  int64_t pairs() const { return pairs_.load(std::memory_order_relaxed); }

 private:
  void OnFrame(const transport::Frame& frame);
  void Answer(const transport::FrameHeader& header);

  transport::EventLoop* const loop_;
  const transport::PayloadShape shape_;
  const absl::Duration per_pair_;
  std::unique_ptr<transport::Link> link_;
  absl::Time busy_until_ = absl::InfinitePast();
  std::deque<uint64_t> timers_;  // of the answers to come, in their order
  std::atomic<int64_t> pairs_{0};
};

}  // namespace atl::bench
