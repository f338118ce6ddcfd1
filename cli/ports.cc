#include "cli/ports.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

namespace atl::cli {
namespace {

// Linux hands out ports from 32768 on to outgoing connections.
constexpr int kFirstPort = 20000;
constexpr int kEndPort = 32768;
constexpr int kTries = 500;

StatusOr<int> LockPort(int port) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus(errno, "socket");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = absl::StrFormat("atoll-port-%d", port);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const socklen_t size = offsetof(sockaddr_un, sun_path) + 1 + name.size();
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) {
    close(fd);
    return AlreadyExists("port %d is kept by another atoll cluster", port);
  }
  return fd;
}

Status TryListen(const rpc::HostPort& where) {
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(where.host.empty() ? nullptr : where.host.c_str(),
                                std::to_string(where.port).c_str(), &hints, &found);
  if (error != 0) return InvalidArgument("%s: %s", where.ToString(), gai_strerror(error));
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool listens =
      fd >= 0 && bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 1) == 0;
  const int listen_error = errno;
  freeaddrinfo(found);
  if (fd >= 0) close(fd);
  if (listens) return absl::OkStatus();
  if (listen_error == EADDRINUSE)
    return AlreadyExists("port %d of %s is in use", where.port, where.host);
  return ErrnoStatus(listen_error, "listen on " + where.ToString());
}

StatusOr<int> LockAndTry(const rpc::HostPort& where) {
  ATL_ASSIGN_OR_RETURN(const int lock_fd, LockPort(where.port));
  const Status listens = TryListen(where);
  if (listens.ok()) return lock_fd;
  close(lock_fd);
  return listens;
}

}  // namespace

StatusOr<ReservedPort> ReservedPort::Reserve(const rpc::HostPort& where) {
  if (where.port != 0) {
    ATL_ASSIGN_OR_RETURN(const int lock_fd, LockAndTry(where));
    return ReservedPort(where, lock_fd);
  }
  std::random_device random;
  std::uniform_int_distribution<int> choose(kFirstPort, kEndPort - 1);
  for (int i = 0; i < kTries; ++i) {
    const rpc::HostPort candidate{where.host, choose(random)};
    const StatusOr<int> lock_fd = LockAndTry(candidate);
    if (lock_fd.ok()) return ReservedPort(candidate, *lock_fd);
    if (!absl::IsAlreadyExists(lock_fd.status())) return lock_fd.status();
  }
  return ResourceExhausted("no free port on %s after %d tries in %d..%d", where.host, kTries,
                           kFirstPort, kEndPort - 1);
}

ReservedPort::~ReservedPort() {
  if (lock_fd_ >= 0) close(lock_fd_);
}

ReservedPort::ReservedPort(ReservedPort&& other) noexcept
    : where_(std::move(other.where_)), lock_fd_(std::exchange(other.lock_fd_, -1)) {}

}  // namespace atl::cli
