// A link carries frames both ways between two peers, in order, with a bound on what is in flight, and tells of the
// peer's death at once.
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

enum class LinkKind : uint8_t { kInproc = 1, kUnix = 2, kTcp = 3 };

const char* LinkKindName(LinkKind kind);
StatusOr<LinkKind> ParseLinkKind(const std::string& name);

struct LinkStats {
  uint64_t frames_sent = 0, frames_received = 0;
  uint64_t bytes_sent = 0, bytes_received = 0;  // payload
};

// Bytes of payload that may be sent and not yet consumed by the peer (credit window), and bytes that Send may queue here
// while there is no credit.
struct LinkLimits {
  int64_t window_bytes = int64_t{64} << 20;
  int64_t queue_bytes = int64_t{256} << 20;
};

// Lives on one EventLoop; all calls from that loop's thread.
class Link {
 public:
  virtual ~Link() = default;  // closes, without on_closed

  // on_frame: once for every frame, in order; the frame's payload is the callee's, and counts as consumed when on_frame returns.
  // on_closed: exactly once, when the peer died, sent what is no frame, or Close was called; never from inside Send or
  // SetCallbacks. After it no on_frame comes. The link may be destroyed inside on_closed, not inside on_frame.
  // Frames that came before SetCallbacks are held back until then.
  virtual void SetCallbacks(std::function<void(Frame)> on_frame, std::function<void(Status)> on_closed) = 0;

  // Sends or queues; never blocks. Sets payload_bytes and the checksums. ResourceExhausted: the queue is full (the frame was not taken);
  // Unavailable: the link is closed.
  virtual Status Send(FrameHeader header, Buffer payload) = 0;

  virtual void Close(const Status& why) = 0;

  virtual LinkKind kind() const = 0;
  virtual const LinkStats& stats() const = 0;
};

// Two ends in one process, end a on loop_a and end b on loop_b. Payload buffers are moved, never copied. If both loops are the same, frames
// are delivered by a direct call from Send; else they are posted to the receiver's loop. Closing or destroying one end closes the other.
std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> MakeInprocLinks(EventLoop* loop_a, EventLoop* loop_b,
                                                                      const LinkLimits& limits);

}  // namespace atl::transport
