#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <span>
#include <utility>

#include "absl/time/clock.h"
#include "transport/endpoint.h"
#include "transport/hello.h"
#include "transport/shm_stream.h"
#include "transport/socket_address.h"
#include "transport/socket_stream.h"
#include "transport/stream_link.h"

namespace atl::transport {
namespace {

using Done = std::function<void(StatusOr<std::unique_ptr<Link>>)>;

// One attempt; kept alive by the loop's callbacks until it is over.
class Attempt : public std::enable_shared_from_this<Attempt> {
 public:
  Attempt(EventLoop* loop, const Endpoint& endpoint, const Ticket& ticket, const LinkLimits& limits,
          Done done)
      : loop_(loop),
        endpoint_(endpoint),
        ticket_(ticket),
        limits_(limits),
        done_(std::move(done)) {}
  ~Attempt() {
    if (fd_ >= 0) close(fd_);
    if (passed_fd_ >= 0) close(passed_fd_);
  }

  void Start(absl::Duration timeout) {
    timer_ = loop_->RunAt(absl::Now() + timeout, [self = shared_from_this(), timeout] {
      self->Finish(DeadlineExceeded("no link within %s", absl::FormatDuration(timeout).c_str()));
    });
    if (const Status begun = Begin(); !begun.ok()) {
      loop_->Post([self = shared_from_this(), begun] { self->Finish(begun); });
    }
  }

 private:
  Status Begin() {
    ATL_RETURN_IF_ERROR(CheckLimits(limits_));
    ATL_ASSIGN_OR_RETURN(const SocketAddress address, ToSocketAddress(endpoint_));
    fd_ = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd_ < 0) return ErrnoStatus(errno, "socket");
    ATL_RETURN_IF_ERROR(PrepareSocket(fd_, endpoint_.kind));
    if (connect(fd_, address.get(), address.size) != 0 && errno != EINPROGRESS)
      return ConnectError(errno);
    loop_->Watch(fd_, EPOLLOUT, [self = shared_from_this()](uint32_t) { self->OnConnected(); });
    return absl::OkStatus();
  }

  static Status ConnectError(int error) {
    return Unavailable("%s", std::string(ErrnoStatus(error, "connect").message()));
  }

  void OnConnected() {
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Finish(ConnectError(error));
    const HelloBytes hello = EncodeHello({.ticket = ticket_, .window_bytes = limits_.window_bytes});
    // A fresh socket takes these few bytes at once.
    const ssize_t n = send(fd_, hello.data(), hello.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0)
      return Finish(Unavailable("%s", std::string(ErrnoStatus(errno, "send hello").message())));
    if (n != static_cast<ssize_t>(hello.size()))
      return Finish(Unavailable("send hello: only %d bytes taken", n));
    loop_->Unwatch(fd_);
    loop_->Watch(fd_, EPOLLIN | EPOLLRDHUP,
                 [self = shared_from_this()](uint32_t) { self->ReadAnswer(); });
  }

  void ReadAnswer() {
    const std::span<std::byte> rest = std::span(answer_).subspan(answer_got_);
    const int64_t n = endpoint_.kind == LinkKind::kShm
                          ? ReceiveWithDescriptor(fd_, rest, &passed_fd_)
                          : read(fd_, rest.data(), rest.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n < 0)
      return Finish(Unavailable("%s", std::string(ErrnoStatus(errno, "read answer").message())));
    if (n == 0) return Finish(Unavailable("the listener hung up before it answered"));
    answer_got_ += n;
    if (answer_got_ < answer_.size()) return;
    const StatusOr<int64_t> window = DecodeHelloAnswer(answer_);
    if (!window.ok()) return Finish(window.status());
    StatusOr<std::unique_ptr<ByteStream>> stream = MakeStream(*window);
    if (!stream.ok()) return Finish(stream.status());
    Finish(MakeStreamLink(loop_, *std::move(stream), endpoint_.kind, limits_, *window));
  }

  StatusOr<std::unique_ptr<ByteStream>> MakeStream(int64_t window) {
    loop_->Unwatch(fd_);
    if (endpoint_.kind != LinkKind::kShm) return MakeSocketStream(loop_, std::exchange(fd_, -1));
    if (passed_fd_ < 0) return InvalidArgument("the listener's answer has no shared memory");
    ATL_ASSIGN_OR_RETURN(
        SharedMemory memory,
        SharedMemory::Open(std::exchange(passed_fd_, -1), ShmBytes(window, limits_.window_bytes)));
    return MakeShmStream(loop_, std::exchange(fd_, -1), std::move(memory), ShmSide::kConnector,
                         window, limits_.window_bytes);
  }

  void Finish(StatusOr<std::unique_ptr<Link>> result) {
    if (done_ == nullptr) return;
    const auto self = shared_from_this();
    loop_->CancelTimer(timer_);
    if (fd_ >= 0) {
      loop_->Unwatch(fd_);
      close(std::exchange(fd_, -1));
    }
    if (!result.ok()) result = Annotate(result.status(), "link to " + endpoint_.ToString());
    std::exchange(done_, nullptr)(std::move(result));
  }

  EventLoop* const loop_;
  const Endpoint endpoint_;
  const Ticket ticket_;
  const LinkLimits limits_;
  Done done_;
  int fd_ = -1;
  int passed_fd_ = -1;  // came with the answer
  uint64_t timer_ = 0;
  HelloAnswerBytes answer_;
  size_t answer_got_ = 0;
};

}  // namespace

void ConnectLink(EventLoop* loop, const Endpoint& endpoint, const Ticket& ticket,
                 const LinkLimits& limits, absl::Duration timeout,
                 std::function<void(StatusOr<std::unique_ptr<Link>>)> done) {
  std::make_shared<Attempt>(loop, endpoint, ticket, limits, std::move(done))->Start(timeout);
}

}  // namespace atl::transport
