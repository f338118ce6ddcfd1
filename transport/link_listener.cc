#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "transport/endpoint.h"
#include "transport/hello.h"
#include "transport/shm_stream.h"
#include "transport/socket_address.h"
#include "transport/socket_stream.h"
#include "transport/stream_link.h"

namespace atl::transport {
namespace {

constexpr absl::Duration kTicketTimeout = absl::Seconds(2);
constexpr size_t kMaxWaiting = 64;
constexpr int kBacklog = 128;
// Out of descriptors: accept would fail again at once, so the listener rests.
constexpr absl::Duration kRest = absl::Milliseconds(100);

// A socket file left behind by a process that was killed: nobody answers there.
bool IsStale(const SocketAddress& address) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const bool stale = connect(fd, address.get(), address.size) != 0 && errno == ECONNREFUSED;
  close(fd);
  return stale;
}

StatusOr<int> BindAndListen(const Endpoint& endpoint, const SocketAddress& address) {
  const int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ErrnoStatus(errno, "socket for " + endpoint.ToString());
  const int on = 1;
  if (endpoint.kind == LinkKind::kTcp) {
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));  // a port in TIME_WAIT is not in use
  } else {
    fchmod(fd, 0600);  // the file that bind makes takes this mode
  }
  int result = bind(fd, address.get(), address.size);
  if (result != 0 && errno == EADDRINUSE && endpoint.kind != LinkKind::kTcp &&
      endpoint.address[0] != '@' && IsStale(address)) {
    unlink(endpoint.address.c_str());
    result = bind(fd, address.get(), address.size);
  }
  if (result != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    close(fd);
    return ErrnoStatus(error, "listen on " + endpoint.ToString());
  }
  return fd;
}

// Shared with the loop's callbacks, so that on_link may destroy the listener.
class Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(EventLoop* loop, int fd, LinkKind kind, TicketBook* tickets, const LinkLimits& limits,
           LinkListener::OnLink on_link)
      : loop_(loop),
        fd_(fd),
        kind_(kind),
        tickets_(tickets),
        limits_(limits),
        on_link_(std::move(on_link)) {}

  void Watch() {
    rest_timer_ = 0;
    loop_->Watch(fd_, EPOLLIN, [self = shared_from_this()](uint32_t) { self->Accept(); });
  }

  void Stop() {
    stopped_ = true;
    loop_->Unwatch(fd_);
    loop_->CancelTimer(rest_timer_);
    close(fd_);
    while (!waiting_.empty()) Drop(waiting_.begin()->first);
  }

 private:
  struct Waiting {  // a connection that has not shown its ticket yet
    HelloBytes bytes;
    int64_t got = 0;
    uint64_t timer = 0;
  };

  void Accept() {
    while (!stopped_) {
      const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
      if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
        return Rest(errno);
      if (fd < 0) return;
      if (const Status prepared = PrepareSocket(fd, kind_); !prepared.ok()) {
        LogWarning("link listener: %s", prepared.ToString());
        close(fd);
        continue;
      }
      if (waiting_.size() >= kMaxWaiting) DropOldest();
      Waiting& waiting = waiting_[fd];
      waiting.timer = loop_->RunAt(absl::Now() + kTicketTimeout, [self = shared_from_this(), fd] {
        LogWarning("link listener: a peer showed no ticket within %s",
                   absl::FormatDuration(kTicketTimeout).c_str());
        self->Drop(fd);
      });
      loop_->Watch(fd, EPOLLIN | EPOLLRDHUP,
                   [self = shared_from_this(), fd](uint32_t) { self->ReadHello(fd); });
    }
  }

  void Rest(int error) {
    LogWarning("link listener: %s", ErrnoStatus(error, "accept").ToString());
    loop_->Unwatch(fd_);
    rest_timer_ = loop_->RunAt(absl::Now() + kRest, [self = shared_from_this()] { self->Watch(); });
  }

  void ReadHello(int fd) {
    Waiting& waiting = waiting_[fd];
    ssize_t n;
    do {
      n = read(fd, waiting.bytes.data() + waiting.got, kHelloBytes - waiting.got);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return Drop(fd);
    waiting.got += n;
    if (waiting.got == kHelloBytes) Judge(fd, waiting.bytes);
  }

  void Judge(int fd, const HelloBytes& bytes) {
    const StatusOr<Hello> hello = DecodeHello(bytes);
    const StatusOr<std::string> peer =
        hello.ok() ? tickets_->Redeem(hello->ticket) : hello.status();
    std::optional<SharedMemory> memory;
    Status status = peer.status();
    if (status.ok() && kind_ == LinkKind::kShm) {
      StatusOr<SharedMemory> made =
          SharedMemory::Create(ShmBytes(limits_.window_bytes, hello->window_bytes));
      status = made.status();
      if (made.ok()) memory.emplace(*std::move(made));
    }
    const HelloAnswerBytes answer = EncodeHelloAnswer(status, limits_.window_bytes);
    // An empty socket takes these few bytes at once; if not, the peer is gone.
    const bool sent = SendWithDescriptor(fd, answer, memory ? memory->fd() : -1).ok();
    if (!status.ok()) LogWarning("link listener: connection refused: %s", status.ToString());
    if (!status.ok() || !sent) return Drop(fd);
    Forget(fd);
    std::unique_ptr<ByteStream> stream =
        memory ? MakeShmStream(loop_, fd, *std::move(memory), ShmSide::kListener,
                               limits_.window_bytes, hello->window_bytes)
               : MakeSocketStream(loop_, fd);
    on_link_(*peer, MakeStreamLink(loop_, std::move(stream), kind_, limits_, hello->window_bytes));
  }

  void Forget(int fd) {
    loop_->Unwatch(fd);
    loop_->CancelTimer(waiting_[fd].timer);
    waiting_.erase(fd);
  }

  void Drop(int fd) {
    Forget(fd);
    close(fd);
  }

  // Honest peers show their ticket at once: whoever has waited longest is the least likely to.
  void DropOldest() {
    LogWarning("link listener: %d connections wait for their ticket, the oldest is dropped",
               waiting_.size());
    const auto older = [](const auto& a, const auto& b) { return a.second.timer < b.second.timer; };
    Drop(std::min_element(waiting_.begin(), waiting_.end(), older)->first);
  }

  EventLoop* const loop_;
  const int fd_;
  const LinkKind kind_;
  TicketBook* const tickets_;
  const LinkLimits limits_;
  const LinkListener::OnLink on_link_;
  std::map<int, Waiting> waiting_;
  uint64_t rest_timer_ = 0;
  bool stopped_ = false;
};

class SocketListener : public LinkListener {
 public:
  SocketListener(std::shared_ptr<Acceptor> acceptor, Endpoint endpoint)
      : acceptor_(std::move(acceptor)), endpoint_(std::move(endpoint)) {}
  ~SocketListener() override {
    acceptor_->Stop();
    if (endpoint_.kind != LinkKind::kTcp && endpoint_.address[0] != '@')
      unlink(endpoint_.address.c_str());
  }
  const Endpoint& endpoint() const override { return endpoint_; }

 private:
  const std::shared_ptr<Acceptor> acceptor_;
  const Endpoint endpoint_;
};

}  // namespace

StatusOr<std::unique_ptr<LinkListener>> LinkListener::Listen(EventLoop* loop,
                                                             const Endpoint& endpoint,
                                                             TicketBook* tickets,
                                                             const LinkLimits& limits,
                                                             OnLink on_link) {
  ATL_RETURN_IF_ERROR(CheckLimits(limits));
  ATL_ASSIGN_OR_RETURN(const Endpoint resolved, ResolveEndpoint(endpoint));
  ATL_ASSIGN_OR_RETURN(const SocketAddress address, ToSocketAddress(resolved));
  if (resolved.kind == LinkKind::kShm) {
    ATL_RETURN_IF_ERROR(Annotate(SharedMemory::Create(ShmBytes(1, 1)).status(), "shm links"));
  }
  ATL_ASSIGN_OR_RETURN(const int fd, BindAndListen(resolved, address));
  Endpoint bound = resolved;
  if (bound.kind == LinkKind::kTcp) {
    SocketAddress actual;
    actual.size = sizeof(actual.storage);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&actual.storage), &actual.size) == 0) {
      bound.address = FormatAddress(actual);
    }
  }
  auto acceptor =
      std::make_shared<Acceptor>(loop, fd, bound.kind, tickets, limits, std::move(on_link));
  acceptor->Watch();
  return std::make_unique<SocketListener>(std::move(acceptor), std::move(bound));
}

}  // namespace atl::transport
