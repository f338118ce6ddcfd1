#include "transport/stream_link.h"

#include <sys/uio.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace atl::transport {
namespace {

constexpr int64_t kReadBudgetBytes = int64_t{16} << 20;  // a turn: other descriptors get theirs too
constexpr int kMaxFramesPerWrite = 32;
bool IsBadFrame(const Status& why) {
  return why.code() == absl::StatusCode::kInvalidArgument ||
         why.code() == absl::StatusCode::kDataLoss;
}

class StreamLink : public Link {
 public:
  explicit StreamLink(std::shared_ptr<StreamConnection> connection)
      : connection_(std::move(connection)) {}
  ~StreamLink() override { connection_->Abandon(); }
  void SetCallbacks(std::function<void(Frame)> on_frame,
                    std::function<void(Status)> on_closed) override {
    connection_->SetCallbacks(std::move(on_frame), std::move(on_closed));
  }
  Status Send(FrameHeader header, Buffer payload) override {
    return connection_->Send(header, std::move(payload));
  }
  void Close(const Status& why) override { connection_->Close(why); }
  LinkKind kind() const override { return connection_->kind(); }
  const LinkStats& stats() const override { return connection_->stats(); }

 private:
  const std::shared_ptr<StreamConnection> connection_;
};

}  // namespace

std::unique_ptr<Link> MakeStreamLink(EventLoop* loop, std::unique_ptr<ByteStream> stream,
                                     LinkKind kind, const LinkLimits& limits,
                                     int64_t peer_window_bytes) {
  auto connection =
      std::make_shared<StreamConnection>(loop, std::move(stream), kind, limits, peer_window_bytes);
  connection->Start();
  return std::make_unique<StreamLink>(std::move(connection));
}

StreamConnection::StreamConnection(EventLoop* loop, std::unique_ptr<ByteStream> stream,
                                   LinkKind kind, const LinkLimits& limits,
                                   int64_t peer_window_bytes)
    : loop_(loop),
      stream_(std::move(stream)),
      kind_(kind),
      limits_(limits),
      peer_window_bytes_(peer_window_bytes) {}

void StreamConnection::Start() {
  stream_->Start([weak = weak_from_this()](bool readable, bool writable) {
    if (const std::shared_ptr<StreamConnection> self = weak.lock())
      self->OnReady(readable, writable);
  });
}

void StreamConnection::SetCallbacks(std::function<void(Frame)> on_frame,
                                    std::function<void(Status)> on_closed) {
  ATL_CHECK(on_frame_ == nullptr);
  on_frame_ = std::make_shared<std::function<void(Frame)>>(std::move(on_frame));
  on_closed_ = std::move(on_closed);
  PostSettle();
}

void StreamConnection::PostSettle() {
  loop_->Post([weak = weak_from_this()] {
    if (const std::shared_ptr<StreamConnection> self = weak.lock()) self->Settle();
  });
}

// From a turn of the loop: hands out what is due, in order: frames held back, then the end.
void StreamConnection::Settle() {
  if (on_frame_ == nullptr) return;
  const auto on_frame = on_frame_;
  while (!held_.empty()) {
    Frame frame = std::move(held_.front());
    held_.pop_front();
    const int64_t bytes = frame.payload.size();
    held_bytes_ -= kFrameHeaderBytes + bytes;
    (*on_frame)(std::move(frame));
    Consumed(bytes);
  }
  if (closed_ && on_closed_ != nullptr) std::exchange(on_closed_, nullptr)(*closed_);
}

void StreamConnection::Close(const Status& why) {
  held_.clear();
  Shut(why);
}

void StreamConnection::Abandon() {
  Close(Unavailable("the link was destroyed"));
  on_frame_ = nullptr;
  on_closed_ = nullptr;
}

void StreamConnection::Shut(const Status& why) {
  if (closed_) return;
  closed_ = why;
  if (IsBadFrame(why)) LogWarning("%s link closed: %s", LinkKindName(kind_), why.ToString());
  stream_->Close();
  queue_.clear();
  admitted_ = 0;
  PostSettle();
}

void StreamConnection::OnReady(bool readable, bool writable) {
  if (writable) Flush();
  if (readable && !closed_) Read();
}

// Incoming.

void StreamConnection::Read() {
  int64_t budget = kReadBudgetBytes;
  while (budget > 0 && !closed_) {
    iovec parts[2];
    size_t num_parts = 0;
    int64_t asked = 0;
    if (in_payload_) {
      const int64_t rest = static_cast<int64_t>(payload_.size()) - payload_got_;
      parts[num_parts++] = {payload_.data() + payload_got_, static_cast<size_t>(rest)};
      asked += rest;
    }
    parts[num_parts++] = {next_header_.data() + next_header_got_,
                          next_header_.size() - next_header_got_};
    asked += kFrameHeaderBytes - next_header_got_;
    const StatusOr<int64_t> n = stream_->Read(std::span(parts, num_parts));
    if (!n.ok()) return Shut(n.status());
    TakeBytes(*n);
    if (*n < asked) return;  // nothing more for now; what comes later wakes the loop again
    budget -= *n;
  }
}

void StreamConnection::TakeBytes(int64_t n) {
  if (in_payload_) {
    const int64_t of_payload =
        std::min<int64_t>(n, static_cast<int64_t>(payload_.size()) - payload_got_);
    payload_got_ += of_payload;
    n -= of_payload;
  }
  next_header_got_ += n;
  while (!closed_) {
    if (in_payload_) {
      if (payload_got_ < static_cast<int64_t>(payload_.size())) return;
      FinishFrame();
    } else {
      if (next_header_got_ < kFrameHeaderBytes) return;
      BeginFrame();
    }
  }
}

// Judges the header before a byte is allocated for what it announces.
void StreamConnection::BeginFrame() {
  next_header_got_ = 0;
  StatusOr<FrameHeader> header = DecodeHeader(next_header_);
  if (!header.ok()) return Shut(header.status());
  if (header->payload_bytes > limits_.window_bytes) {
    return Shut(InvalidArgument("frame payload of %d bytes, expected at most the window of %d",
                                header->payload_bytes, limits_.window_bytes));
  }
  header_ = *header;
  try {
    payload_ = Buffer(header_.payload_bytes);
  } catch (const std::bad_alloc&) {
    return Shut(
        ResourceExhausted("no memory for a frame payload of %d bytes", header_.payload_bytes));
  }
  payload_got_ = 0;
  in_payload_ = true;
}

void StreamConnection::FinishFrame() {
  in_payload_ = false;
  Frame frame{header_, std::move(payload_)};
  if (kind_ == LinkKind::kTcp) {
    const uint32_t crc = Crc32c({frame.payload.data(), frame.payload.size()});
    if (crc != header_.payload_crc) {
      return Shut(DataLoss("payload_crc %#x of a frame of type %d, expected %#x", crc,
                           static_cast<int>(header_.type), header_.payload_crc));
    }
  }
  if (header_.type == FrameType::kCredit) return TakeCredit(header_);
  if (header_.type == FrameType::kHello) return Shut(InvalidArgument("a second hello on the link"));
  ++stats_.frames_received;
  stats_.bytes_received += frame.payload.size();
  Deliver(std::move(frame));
}

void StreamConnection::TakeCredit(const FrameHeader& header) {
  if (header.pairs > in_flight_bytes_ || header.payload_bytes != 0) {
    return Shut(InvalidArgument("credit for %d bytes, expected at most the %d in flight",
                                header.pairs, in_flight_bytes_));
  }
  in_flight_bytes_ -= header.pairs;
  Flush();
}

void StreamConnection::Deliver(Frame frame) {
  const int64_t bytes = frame.payload.size();
  if (on_frame_ != nullptr && held_.empty()) {
    const auto on_frame = on_frame_;  // outlives a link destroyed by its own callback
    (*on_frame)(std::move(frame));
    return Consumed(bytes);
  }
  held_bytes_ += kFrameHeaderBytes + bytes;
  if (held_bytes_ > 2 * limits_.window_bytes) {
    return Shut(InvalidArgument("the peer sent %d bytes beyond its window of %d", held_bytes_,
                                limits_.window_bytes));
  }
  held_.push_back(std::move(frame));
}

void StreamConnection::Consumed(int64_t payload_bytes) {
  credit_owed_ += payload_bytes;
  if (closed_ || credit_owed_ < limits_.window_bytes / 2 || credit_owed_ == 0) return;
  QueueCredit();
  Flush();
}

// Outgoing.

Status StreamConnection::Send(FrameHeader header, Buffer payload) {
  if (closed_) {
    return Unavailable("%s link is closed: %s", LinkKindName(kind_),
                       std::string(closed_->message()));
  }
  const int64_t bytes = payload.size();
  const int64_t limit = std::min<int64_t>(peer_window_bytes_, kMaxPayloadBytes);
  if (bytes > limit)
    return InvalidArgument("frame payload of %d bytes, expected at most %d", bytes, limit);
  const int64_t frame_bytes = kFrameHeaderBytes + bytes;
  const bool waits = admitted_ < queue_.size() || !HasCreditFor(bytes);
  // Frames with credit are bounded by the peer's window; frames without payload need none, so all
  // are counted too.
  if ((waits && blocked_bytes_ + frame_bytes > limits_.queue_bytes) ||
      queued_bytes_ + frame_bytes > 2 * peer_window_bytes_ + limits_.queue_bytes) {
    return ResourceExhausted("%s link: %d bytes are queued, no room for %d more (limit %d)",
                             LinkKindName(kind_), queued_bytes_, frame_bytes, limits_.queue_bytes);
  }
  header.payload_bytes = static_cast<uint32_t>(bytes);
  header.payload_crc = kind_ == LinkKind::kTcp ? Crc32c({payload.data(), payload.size()}) : 0;
  OutFrame frame{.payload = std::move(payload)};
  EncodeHeader(header, frame.header.data());
  queue_.push_back(std::move(frame));
  queued_bytes_ += frame_bytes;
  blocked_bytes_ += frame_bytes;
  ++stats_.frames_sent;
  stats_.bytes_sent += bytes;
  Admit();
  if (!wants_write_) Flush();
  if (closed_)
    return Unavailable("%s link: %s", LinkKindName(kind_), std::string(closed_->message()));
  return absl::OkStatus();
}

// Below half a window the peer may owe credit that it will not send yet, so a large frame may
// exceed the rest.
bool StreamConnection::HasCreditFor(int64_t bytes) const {
  return bytes == 0 || in_flight_bytes_ + bytes <= peer_window_bytes_ ||
         in_flight_bytes_ * 2 < peer_window_bytes_;
}

// Lets frames pass, in order, as far as the peer's window has room.
void StreamConnection::Admit() {
  while (admitted_ < queue_.size()) {
    const OutFrame& frame = queue_[admitted_];
    const int64_t bytes = frame.payload.size();
    if (!HasCreditFor(bytes)) return;
    in_flight_bytes_ += bytes;
    blocked_bytes_ -= frame.bytes();
    ++admitted_;
  }
}

// Credit goes before frames that wait for credit themselves: both ends may be waiting.
void StreamConnection::QueueCredit() {
  OutFrame frame;
  const FrameHeader header = {.type = FrameType::kCredit,
                              .pairs = static_cast<uint32_t>(credit_owed_)};
  EncodeHeader(header, frame.header.data());
  credit_owed_ = 0;
  queued_bytes_ += kFrameHeaderBytes;
  queue_.insert(queue_.begin() + admitted_, std::move(frame));
  ++admitted_;
}

void StreamConnection::Flush() {
  if (closed_) return;
  Admit();
  while (admitted_ > 0) {
    iovec parts[2 * kMaxFramesPerWrite];
    size_t num_parts = 0;
    int64_t asked = 0;
    for (size_t i = 0; i < admitted_ && i < kMaxFramesPerWrite; ++i) {
      OutFrame& frame = queue_[i];
      const int64_t header_rest = std::max<int64_t>(kFrameHeaderBytes - frame.sent, 0);
      const int64_t payload_sent = std::max<int64_t>(frame.sent - kFrameHeaderBytes, 0);
      const int64_t payload_rest = static_cast<int64_t>(frame.payload.size()) - payload_sent;
      if (header_rest > 0) {
        parts[num_parts++] = {frame.header.data() + frame.sent, static_cast<size_t>(header_rest)};
      }
      if (payload_rest > 0) {
        parts[num_parts++] = {frame.payload.data() + payload_sent,
                              static_cast<size_t>(payload_rest)};
      }
      asked += header_rest + payload_rest;
    }
    const StatusOr<int64_t> n = stream_->Write(std::span(parts, num_parts));
    if (!n.ok()) return Shut(n.status());
    DropWritten(*n);
    if (*n < asked) return WantWrite(true);
  }
  WantWrite(false);
}

void StreamConnection::DropWritten(int64_t n) {
  while (n > 0) {
    OutFrame& frame = queue_.front();
    const int64_t step = std::min(n, frame.bytes() - frame.sent);
    frame.sent += step;
    n -= step;
    if (frame.sent < frame.bytes()) return;
    queued_bytes_ -= frame.bytes();
    queue_.pop_front();
    --admitted_;
  }
}

void StreamConnection::WantWrite(bool on) {
  if (on == wants_write_) return;
  wants_write_ = on;
  stream_->WantWrite(on);
}

}  // namespace atl::transport
