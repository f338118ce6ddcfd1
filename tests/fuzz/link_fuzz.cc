// A link whose peer sends frames, or any other bytes, in pieces of any size, while frames are sent
// to it: what came well is delivered once and in order, what is sent is well-formed, nothing comes
// after the end.

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "tests/fuzz/input.h"
#include "transport/byte_stream.h"
#include "transport/stream_link.h"

namespace atl::transport {
namespace {

constexpr LinkLimits kLimits = {.window_bytes = 4096, .queue_bytes = 8192};
constexpr int64_t kPeerWindow = 2048;

// The peer's side of the stream.
struct Wire {
  std::string in;       // sent by the peer
  size_t read = 0;      // of it, by the link
  size_t piece = 0;     // that may be read next
  size_t room = 0;      // for what the link writes
  std::string out;      // written by the link
  bool ended = false;   // the peer is gone
  bool closed = false;  // by the link
  std::function<void(bool readable, bool writable)> on_ready;
};

class FuzzStream : public ByteStream {
 public:
  explicit FuzzStream(Wire* wire) : wire_(wire) {}
  void Start(std::function<void(bool, bool)> on_ready) override {
    wire_->on_ready = std::move(on_ready);
  }
  StatusOr<int64_t> Read(std::span<const iovec> parts) override {
    if (wire_->ended && wire_->read == wire_->in.size()) return Unavailable("the peer is gone");
    int64_t total = 0;
    for (const iovec& part : parts) {
      const size_t n = std::min({part.iov_len, wire_->piece, wire_->in.size() - wire_->read});
      if (n > 0) std::memcpy(part.iov_base, wire_->in.data() + wire_->read, n);
      wire_->read += n;
      wire_->piece -= n;
      total += static_cast<int64_t>(n);
    }
    return total;
  }
  StatusOr<int64_t> Write(std::span<const iovec> parts) override {
    int64_t total = 0;
    for (const iovec& part : parts) {
      const size_t n = std::min(part.iov_len, wire_->room);
      wire_->out.append(static_cast<const char*>(part.iov_base), n);
      wire_->room -= n;
      total += static_cast<int64_t>(n);
    }
    return total;
  }
  void WantWrite(bool) override {}
  void Close() override { wire_->closed = true; }

 private:
  Wire* const wire_;
};

class Play {
 public:
  explicit Play(fuzz::Input input)
      : input_(input), kind_(input_.Number<uint8_t>() % 2 == 0 ? LinkKind::kTcp : LinkKind::kUnix) {
    link_ =
        MakeStreamLink(&loop_, std::make_unique<FuzzStream>(&wire_), kind_, kLimits, kPeerWindow);
  }

  void Run() {
    while (!input_.empty()) Act();
    Listen();
    Deliver(wire_.in.size());
    wire_.ended = true;
    Deliver(0);
    loop_.RunOnce(absl::ZeroDuration());
    // Once for the post of SetCallbacks, once for that of the end.
    loop_.RunOnce(absl::ZeroDuration());
    ATL_CHECK(num_ends_ == 1);
    ATL_CHECK(delivered_.size() >= good_.size());
    CheckWritten();
  }

 private:
  void Act() {
    switch (input_.Number<uint8_t>() % 8) {
      case 0:
        return SendGood();
      case 1:
        return SendCrafted();
      case 2:
        wild_ = true;
        wire_.in += input_.Bytes(input_.Number<uint8_t>());
        return;
      case 3:
        return Deliver(input_.Number<uint8_t>());
      case 4:
        return Deliver(input_.Number<uint16_t>());
      case 5:
        return Answer();
      case 6:
        wire_.room += input_.Number<uint16_t>();
        if (!wire_.closed) wire_.on_ready(false, true);
        return;
      case 7:
        return Listen();
    }
  }

  // A frame as a peer may send it: within the window while nobody has listened.
  void SendGood() {
    const uint8_t call_id = input_.Number<uint8_t>();
    const std::string payload(input_.Bytes(input_.Number<uint16_t>() % (kLimits.window_bytes + 1)));
    const FrameHeader header = {.type = FrameType::kOuts,
                                .call_id = call_id,
                                .payload_bytes = static_cast<uint32_t>(payload.size())};
    held_bytes_ += listens_ ? 0 : kFrameHeaderBytes + static_cast<int64_t>(payload.size());
    wild_ = wild_ || held_bytes_ > kLimits.window_bytes;
    Append(header, payload);
    if (!wild_) good_.push_back(payload);
  }

  // Any header with a right checksum, and any payload.
  void SendCrafted() {
    wild_ = true;
    FrameHeader header = input_.Number<FrameHeader>();
    header.magic = kFrameMagic;
    header.version = kProtocolVersion;
    Append(header, std::string(input_.Bytes(header.payload_bytes % 256)));
  }

  void Append(FrameHeader header, const std::string& payload) {
    const std::span<const char> bytes(payload);
    if (kind_ == LinkKind::kTcp) header.payload_crc = Crc32c(std::as_bytes(bytes));
    std::byte head[kFrameHeaderBytes];
    EncodeHeader(header, head);
    wire_.in.append(reinterpret_cast<const char*>(head), sizeof(head));
    wire_.in += payload;
  }

  void Deliver(size_t bytes) {
    wire_.piece = bytes;
    if (!wire_.closed) wire_.on_ready(true, false);
    wire_.piece = 0;
  }

  // A frame to the peer.
  void Answer() {
    const size_t bytes = input_.Number<uint16_t>() % (kPeerWindow + 512);
    Buffer payload(bytes);
    const Status sent = link_->Send({.type = FrameType::kCombined}, std::move(payload));
    if (bytes > kPeerWindow) ATL_CHECK(!sent.ok());
  }

  void Listen() {
    if (listens_) return;
    listens_ = true;
    link_->SetCallbacks([this](Frame frame) { OnFrame(frame); }, [this](Status) { ++num_ends_; });
    loop_.RunOnce(absl::ZeroDuration());
  }

  void OnFrame(const Frame& frame) {
    ATL_CHECK(num_ends_ == 0);
    ATL_CHECK(frame.payload.size() == frame.header.payload_bytes);
    const std::string payload(frame.payload.as<char>(), frame.payload.size());
    const size_t at = delivered_.size();
    if (at < good_.size()) ATL_CHECK(payload == good_[at]);
    delivered_.push_back(payload);
  }

  void CheckWritten() const {
    size_t at = 0;
    while (at + kFrameHeaderBytes <= wire_.out.size()) {
      const std::span<const char> bytes(wire_.out.data() + at, kFrameHeaderBytes);
      const StatusOr<FrameHeader> header = DecodeHeader(std::as_bytes(bytes));
      ATL_CHECK(header.ok());
      ATL_CHECK(header->type == FrameType::kCombined || header->type == FrameType::kCredit);
      at += kFrameHeaderBytes + header->payload_bytes;
    }
  }

  fuzz::Input input_;
  const LinkKind kind_;
  Wire wire_;
  EventLoop loop_;
  std::unique_ptr<Link> link_;
  bool listens_ = false;
  bool wild_ = false;  // the peer has broken the rules: only what came before is promised
  int64_t held_bytes_ = 0;
  std::vector<std::string> good_, delivered_;  // payloads
  int num_ends_ = 0;
};

}  // namespace
}  // namespace atl::transport

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  atl::InitLog("fuzz", atl::LogLevel::kError);  // every bad frame is logged
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::transport::Play({data, size}).Run();
  return 0;
}
