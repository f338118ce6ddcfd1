#include "transport/shm_stream.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <string>
#include <utility>

namespace atl::transport {
namespace {

constexpr int64_t kMinRingBytes = 4096;
constexpr int64_t kMaxRingBytes = int64_t{1} << 20;  // stays in a core's own cache
constexpr uint64_t kPieceBytes = 32u << 10;  // published at once: the peer copies while we do

class ShmStream : public ByteStream, public Poller {
 public:
  ShmStream(EventLoop* loop, int socket, SharedMemory memory, ShmSide side, uint64_t to_listener,
            uint64_t to_connector)
      : loop_(loop),
        socket_(socket),
        memory_(std::move(memory)),
        control_(reinterpret_cast<ShmControl*>(memory_.data())),
        asleep_(side == ShmSide::kListener ? control_->listener_asleep
                                           : control_->connector_asleep),
        peer_asleep_(side == ShmSide::kListener ? control_->connector_asleep
                                                : control_->listener_asleep),
        reader_(MakeRing<RingReader>(side == ShmSide::kListener, to_listener, to_connector)),
        writer_(MakeRing<RingWriter>(side == ShmSide::kConnector, to_listener, to_connector)) {}
  ~ShmStream() { Close(); }

  void Start(std::function<void(bool, bool)> on_ready) override {
    on_ready_ = std::make_shared<std::function<void(bool, bool)>>(std::move(on_ready));
    loop_->Watch(socket_, EPOLLIN | EPOLLRDHUP, [this](uint32_t) { TakeWakeUps(); });
    loop_->AddPoller(this);
  }

  StatusOr<int64_t> Read(std::span<const iovec> parts) override {
    int64_t total = 0;
    for (const iovec& part : parts) {
      for (size_t got = 0; got < part.iov_len;) {
        ATL_ASSIGN_OR_RETURN(const uint64_t n,
                             reader_.Read(static_cast<std::byte*>(part.iov_base) + got,
                                          std::min<uint64_t>(part.iov_len - got, kPieceBytes)));
        if (n == 0) {
          if (total == 0 && peer_gone_) return Unavailable("the peer closed the connection");
          return total;
        }
        if (reader_.TakeWantsSpace()) WakePeer();
        got += n;
        total += static_cast<int64_t>(n);
      }
    }
    return total;
  }

  StatusOr<int64_t> Write(std::span<const iovec> parts) override {
    int64_t total = 0;  // also where the peer is gone: Read tells, after what it had written
    for (const iovec& part : parts) {
      for (size_t put = 0; put < part.iov_len;) {
        ATL_ASSIGN_OR_RETURN(const uint64_t n,
                             writer_.Write(static_cast<const std::byte*>(part.iov_base) + put,
                                           std::min<uint64_t>(part.iov_len - put, kPieceBytes)));
        if (n == 0) {
          writer_.WantSpace(true);
          return total;
        }
        WakePeer();
        put += n;
        total += static_cast<int64_t>(n);
      }
    }
    return total;
  }

  void WantWrite(bool on) override {
    wants_write_ = on;
    if (!on) writer_.WantSpace(false);
  }

  void Close() override {
    if (socket_ < 0) return;
    loop_->RemovePoller(this);
    loop_->Unwatch(socket_);
    close(std::exchange(socket_, -1));
  }

  bool Ready() override {
    return peer_gone_ || reader_.HasBytes() || (wants_write_ && writer_.HasSpace());
  }

  void Run() override {
    const auto on_ready = on_ready_;  // outlives a stream destroyed inside
    (*on_ready)(peer_gone_ || reader_.HasBytes(), wants_write_ && writer_.HasSpace());
  }

  void SetAsleep(bool asleep) override { asleep_.store(asleep ? 1 : 0, std::memory_order_seq_cst); }

 private:
  template <typename Ring>
  Ring MakeRing(bool to_listener_wanted, uint64_t to_listener, uint64_t to_connector) {
    std::byte* const data = memory_.data() + kShmControlBytes;
    if (to_listener_wanted) return Ring(&control_->to_listener, data, to_listener);
    return Ring(&control_->to_connector, data + to_listener, to_connector);
  }

  // Called after something was published. A full socket is full of wake-ups already.
  void WakePeer() {
    if (peer_asleep_.load(std::memory_order_seq_cst) == 0) return;
    peer_asleep_.store(0, std::memory_order_relaxed);
    const char one = 1;
    while (send(socket_, &one, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EINTR) {
    }
  }

  // What they are about is seen by Ready, in this same turn.
  void TakeWakeUps() {
    char bytes[64];
    const ssize_t n = recv(socket_, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN))) return;
    peer_gone_ = true;
    loop_->Unwatch(socket_);
  }

  EventLoop* const loop_;
  int socket_;
  const SharedMemory memory_;
  ShmControl* const control_;
  const std::atomic_ref<uint32_t> asleep_;
  const std::atomic_ref<uint32_t> peer_asleep_;
  RingReader reader_;
  RingWriter writer_;
  std::shared_ptr<std::function<void(bool, bool)>> on_ready_;
  bool wants_write_ = false;
  bool peer_gone_ = false;
};

}  // namespace

uint64_t ShmRingBytes(int64_t window_bytes) {
  return std::bit_ceil(
      static_cast<uint64_t>(std::clamp(window_bytes, kMinRingBytes, kMaxRingBytes)));
}

size_t ShmBytes(int64_t listener_window_bytes, int64_t connector_window_bytes) {
  return kShmControlBytes + ShmRingBytes(listener_window_bytes) +
         ShmRingBytes(connector_window_bytes);
}

std::unique_ptr<ByteStream> MakeShmStream(EventLoop* loop, int socket, SharedMemory memory,
                                          ShmSide side, int64_t listener_window_bytes,
                                          int64_t connector_window_bytes) {
  memory.CloseDescriptor();
  return std::make_unique<ShmStream>(loop, socket, std::move(memory), side,
                                     ShmRingBytes(listener_window_bytes),
                                     ShmRingBytes(connector_window_bytes));
}

}  // namespace atl::transport
