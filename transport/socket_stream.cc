#include "transport/socket_stream.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

namespace atl::transport {
namespace {

constexpr uint32_t kReadEvents = EPOLLIN | EPOLLRDHUP;

// A cut network is noticed after this long: unacknowledged data, or an idle connection's keepalive.
constexpr int kTcpUserTimeoutMs = 20'000;
constexpr int kKeepaliveIdleS = 5;
constexpr int kKeepaliveIntervalS = 3;
constexpr int kKeepaliveProbes = 5;

Status SetOption(int fd, int level, int name, int value, const char* what) {
  if (setsockopt(fd, level, name, &value, sizeof(value)) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, std::string("setsockopt ") + what);
}

// 0 for "not now".
StatusOr<int64_t> CountOrError(ssize_t n, const char* what) {
  if (n >= 0) return n;
  if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
  return Unavailable("%s", std::string(ErrnoStatus(errno, what).message()));
}

class SocketStream : public ByteStream {
 public:
  SocketStream(EventLoop* loop, int fd) : loop_(loop), fd_(fd) {}
  ~SocketStream() override { Close(); }

  void Start(std::function<void(bool, bool)> on_ready) override {
    // Errors and hang-ups are told by the read, after what came before them.
    loop_->Watch(fd_, kReadEvents, [on_ready = std::move(on_ready)](uint32_t events) {
      on_ready((events & ~uint32_t{EPOLLOUT}) != 0, (events & EPOLLOUT) != 0);
    });
  }

  StatusOr<int64_t> Read(std::span<const iovec> parts) override {
    ssize_t n;
    do {
      n = readv(fd_, parts.data(), static_cast<int>(parts.size()));
    } while (n < 0 && errno == EINTR);
    if (n == 0) return Unavailable("the peer closed the connection");
    return CountOrError(n, "read from the peer");
  }

  StatusOr<int64_t> Write(std::span<const iovec> parts) override {
    msghdr message = {};
    message.msg_iov = const_cast<iovec*>(parts.data());  // sendmsg does not write there
    message.msg_iovlen = parts.size();
    ssize_t n;
    do {
      n = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return CountOrError(n, "write to the peer");
  }

  void WantWrite(bool on) override {
    loop_->Rearm(fd_, kReadEvents | (on ? uint32_t{EPOLLOUT} : 0u));
  }

  void Close() override {
    if (fd_ < 0) return;
    loop_->Unwatch(fd_);
    close(std::exchange(fd_, -1));
  }

 private:
  EventLoop* const loop_;
  int fd_;
};

}  // namespace

Status PrepareSocket(int fd, LinkKind kind) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return ErrnoStatus(errno, "fcntl O_NONBLOCK");
  if (kind != LinkKind::kTcp) return absl::OkStatus();
  ATL_RETURN_IF_ERROR(SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
  ATL_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kTcpUserTimeoutMs, "TCP_USER_TIMEOUT"));
  ATL_RETURN_IF_ERROR(SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"));
  ATL_RETURN_IF_ERROR(SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepaliveIdleS, "TCP_KEEPIDLE"));
  ATL_RETURN_IF_ERROR(
      SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepaliveIntervalS, "TCP_KEEPINTVL"));
  return SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveProbes, "TCP_KEEPCNT");
}

std::unique_ptr<ByteStream> MakeSocketStream(EventLoop* loop, int fd) {
  return std::make_unique<SocketStream>(loop, fd);
}

}  // namespace atl::transport
