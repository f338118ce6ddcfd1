// A link carries frames both ways between two peers, in order, with a bound on what is in flight,
// and tells of the peer's death at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/buffer.h"
#include "base/status.h"
#include "transport/event_loop.h"
#include "transport/frame.h"

namespace atl::transport {

enum class LinkKind : uint8_t { kInproc = 1, kUnix = 2, kTcp = 3, kShm = 4 };

const char* LinkKindName(LinkKind kind);
StatusOr<LinkKind> ParseLinkKind(const std::string& name);

struct LinkStats {
  uint64_t frames_sent = 0, frames_received = 0;
  uint64_t bytes_sent = 0, bytes_received = 0;  // payload
};

// Bounds of one end.
//   window_bytes: payload that the peer may have sent here and that is not yet consumed (credit
//   window), less than 4 GiB; told to the
//     peer when the link is made. A frame's payload may be as large as the window: one such frame
//     may be under way while less than half of the window is, so memory held is at most 1.5 times
//     the window.
//   queue_bytes: what Send may queue here while there is no credit.
struct LinkLimits {
  int64_t window_bytes = int64_t{64} << 20;
  int64_t queue_bytes = int64_t{256} << 20;
};

// InvalidArgument if they are not positive or the window is not told in 32 bits.
Status CheckLimits(const LinkLimits& limits);

// Lives on one EventLoop, which outlives it; all calls from that loop's thread.
class Link {
 public:
  virtual ~Link() = default;  // closes, without on_closed

  // Called once.
  // on_frame: once for every frame, in order, one at a time; the frame's payload is the callee's,
  // and counts as consumed when on_frame returns. kCredit and kHello frames are the link's own and
  // are not told. on_closed: exactly once, from a turn of the loop, when the peer died, sent what
  // is no frame, or Close was called; never from inside Send, Close or SetCallbacks. After it, or
  // after Close, no on_frame comes. The link may be destroyed inside either. Frames that came
  // before SetCallbacks are held back until the loop's next turn after it.
  virtual void SetCallbacks(std::function<void(Frame)> on_frame,
                            std::function<void(Status)> on_closed) = 0;

  // Sends or queues; never blocks. Sets payload_bytes and the checksums. ResourceExhausted: the
  // queue is full (the frame was not taken); InvalidArgument: larger than the peer's window or
  // kMaxPayloadBytes; Unavailable: the link is closed.
  virtual Status Send(FrameHeader header, Buffer payload) = 0;

  // Frames still queued are dropped. Once closed, does nothing.
  virtual void Close(const Status& why) = 0;

  virtual LinkKind kind() const = 0;
  virtual const LinkStats& stats() const = 0;
};

// Two ends in one process, end a on loop_a and end b on loop_b; both loops outlive both ends.
// Payload buffers are moved, never copied. If both loops are the same, frames are delivered by a
// direct call from Send, unless that receiver is in its on_frame already: then when it returns.
// Else they are posted to the receiver's loop. Closing or destroying one end closes the other,
// after the frames sent before.
std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> MakeInprocLinks(EventLoop* loop_a,
                                                                        EventLoop* loop_b,
                                                                        const LinkLimits& limits);

}  // namespace atl::transport
