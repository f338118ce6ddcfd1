// The link over a stream of bytes: its frames, its window, its queue. shm, unix and tcp differ in
// their streams, and tcp in the payload's checksum.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "transport/byte_stream.h"
#include "transport/link.h"

namespace atl::transport {

// Both hellos have been exchanged; `peer_window_bytes` is what the peer's said.
std::unique_ptr<Link> MakeStreamLink(EventLoop* loop, std::unique_ptr<ByteStream> stream,
                                     LinkKind kind, const LinkLimits& limits,
                                     int64_t peer_window_bytes);

// What a stream link does behind the Link interface; shared, so that a callback may destroy the
// link.
class StreamConnection : public std::enable_shared_from_this<StreamConnection> {
 public:
  StreamConnection(EventLoop* loop, std::unique_ptr<ByteStream> stream, LinkKind kind,
                   const LinkLimits& limits, int64_t peer_window_bytes);

  void Start();
  void SetCallbacks(std::function<void(Frame)> on_frame, std::function<void(Status)> on_closed);
  Status Send(FrameHeader header, Buffer payload);
  void Close(const Status& why);
  void Abandon();  // the link was destroyed: closes, calls nobody

  LinkKind kind() const { return kind_; }
  const LinkStats& stats() const { return stats_; }

 private:
  using HeaderBytes = std::array<std::byte, kFrameHeaderBytes>;
  struct OutFrame {
    HeaderBytes header;
    Buffer payload;
    int64_t sent = 0;  // bytes of header and payload written
    int64_t bytes() const { return kFrameHeaderBytes + static_cast<int64_t>(payload.size()); }
  };

  void OnReady(bool readable, bool writable);
  void Read();
  void TakeBytes(int64_t n);
  void BeginFrame();
  void FinishFrame();
  void TakeCredit(const FrameHeader& header);
  void Deliver(Frame frame);
  void Consumed(int64_t payload_bytes);
  void Settle();
  void PostSettle();

  bool HasCreditFor(int64_t bytes) const;
  void Admit();
  void Flush();
  void DropWritten(int64_t n);
  void QueueCredit();
  void WantWrite(bool on);
  void Shut(const Status& why);

  EventLoop* const loop_;
  const std::unique_ptr<ByteStream> stream_;
  const LinkKind kind_;
  const LinkLimits limits_;
  const int64_t peer_window_bytes_;

  std::shared_ptr<std::function<void(Frame)>> on_frame_;
  std::function<void(Status)> on_closed_;
  std::optional<Status> closed_;  // set: the stream is closed
  LinkStats stats_;

  // Incoming: the frame in hand. While its payload comes in, the next header may already be there.
  HeaderBytes next_header_;
  int64_t next_header_got_ = 0;
  bool in_payload_ = false;
  FrameHeader header_;
  Buffer payload_;
  int64_t payload_got_ = 0;
  int64_t credit_owed_ = 0;  // payload consumed here and not yet told
  std::deque<Frame> held_;   // came before SetCallbacks
  int64_t held_bytes_ = 0;

  // Outgoing: the first `admitted_` frames have credit, the others wait for it.
  std::deque<OutFrame> queue_;
  size_t admitted_ = 0;
  int64_t queued_bytes_ = 0;     // of all, headers included
  int64_t blocked_bytes_ = 0;    // of those that wait for credit
  int64_t in_flight_bytes_ = 0;  // payload admitted and not yet credited by the peer
  bool wants_write_ = false;
};

}  // namespace atl::transport
