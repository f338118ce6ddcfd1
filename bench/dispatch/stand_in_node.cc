#include "bench/dispatch/stand_in_node.h"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"

namespace atl::bench {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

StandInNode::StandInNode(transport::EventLoop* loop, const transport::PayloadShape& shape,
                         absl::Duration per_pair, std::unique_ptr<transport::Link> link)
    : loop_(loop), shape_(shape), per_pair_(per_pair), link_(std::move(link)) {
  link_->SetCallbacks([this](const Frame& frame) { OnFrame(frame); }, [](const Status&) {});
}

StandInNode::~StandInNode() {
  for (const uint64_t timer : timers_) loop_->CancelTimer(timer);
}

void StandInNode::OnFrame(const Frame& frame) {
  if (frame.header.type != FrameType::kWork) return;
  if (const Status bad = CheckPayload(shape_, frame); !bad.ok()) {
    std::fprintf(stderr, "stand-in node: %s\n", bad.ToString().c_str());
    return link_->Close(bad);
  }
  pairs_.fetch_add(frame.header.pairs, std::memory_order_relaxed);
  FrameHeader header = frame.header;
  header.type = FrameType::kOuts;
  header.flags = 0;
  header.time_left_us = 0;
  if (per_pair_ == absl::ZeroDuration()) return Answer(header);
  busy_until_ = std::max(busy_until_, absl::Now()) + per_pair_ * header.pairs;
  timers_.push_back(loop_->RunAt(busy_until_, [this, header] {
    timers_.pop_front();
    Answer(header);
  }));
}

void StandInNode::Answer(const FrameHeader& header) {
  const Status sent =
      link_->Send(header, Buffer(header.pairs * shape_.hidden_size * DTypeBytes(shape_.wire)));
  if (sent.ok()) return;
  std::fprintf(stderr, "stand-in node: %s\n", sent.ToString().c_str());
  link_->Close(sent);
}

}  // namespace atl::bench
