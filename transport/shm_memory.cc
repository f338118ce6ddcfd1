#include "transport/shm_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace atl::transport {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL of Linux 6.3, which may insist on it

Status NoMemory(const char* what) {
  return Unavailable("%s", std::string(ErrnoStatus(errno, what).message()));
}

Status CheckSealed(int fd, size_t bytes) {
  struct stat info;
  if (fstat(fd, &info) != 0)
    return InvalidArgument("shared memory: %s", std::string(ErrnoStatus(errno, "fstat").message()));
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals)
    return InvalidArgument("shared memory with seals %#x, expected %#x", seals, kSeals);
  if (info.st_size != static_cast<off_t>(bytes))
    return InvalidArgument("shared memory of %d bytes, expected %d", info.st_size, bytes);
  return absl::OkStatus();
}

}  // namespace

StatusOr<SharedMemory> SharedMemory::Create(size_t bytes) {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memfd_create("atoll-link", kFlags | kNoExecSeal);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("atoll-link", kFlags);
  if (fd < 0) return NoMemory("memfd_create");
  SharedMemory memory(fd);
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) return NoMemory("size of a memfd");
  if (fcntl(fd, F_ADD_SEALS, kSeals) != 0) return NoMemory("seals of a memfd");
  ATL_RETURN_IF_ERROR(memory.Map(bytes));
  return memory;
}

StatusOr<SharedMemory> SharedMemory::Open(int fd, size_t bytes) {
  SharedMemory memory(fd);
  ATL_RETURN_IF_ERROR(CheckSealed(fd, bytes));
  ATL_RETURN_IF_ERROR(memory.Map(bytes));
  return memory;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
  CloseDescriptor();
}

void SharedMemory::CloseDescriptor() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

Status SharedMemory::Map(size_t bytes) {
  void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (address == MAP_FAILED) return NoMemory("map shared memory");
  data_ = static_cast<std::byte*>(address);
  bytes_ = bytes;
  return absl::OkStatus();
}

Status SendWithDescriptor(int socket, std::span<const std::byte> bytes, int passed) {
  iovec part = {const_cast<std::byte*>(bytes.data()),
                bytes.size()};  // sendmsg does not write there
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (passed >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &passed, sizeof(int));
  }
  ssize_t n;
  do {
    n = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return NoMemory("send to the peer");
  if (n != static_cast<ssize_t>(bytes.size()))
    return Unavailable("send to the peer: only %d of %d bytes taken", n, bytes.size());
  return absl::OkStatus();
}

int64_t ReceiveWithDescriptor(int socket, std::span<std::byte> bytes, int* passed) {
  iovec part = {bytes.data(), bytes.size()};
  // Room for one, two with the padding; what does not fit is closed by the kernel.
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return n;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len < CMSG_LEN(0))
      continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      if (*passed >= 0) close(*passed);
      std::memcpy(passed, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    }
  }
  return n;
}

}  // namespace atl::transport
