// The memory of a shm link: made by the listening side, sealed against a change of size, passed
// over the unix socket with the answer to the hello.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/status.h"

namespace atl::transport {

// A shared mapping of a whole memfd. Its memory counts to the process that touches it, not to
// /dev/shm.
class SharedMemory {
 public:
  // Zero bytes of a new memfd whose size nobody can change any more. Unavailable: the system has
  // none to give.
  static StatusOr<SharedMemory> Create(size_t bytes);
  // Maps a descriptor that came from a peer, and takes it over. InvalidArgument: it is no memfd,
  // its size is not `bytes`, or could still be changed (touching what was cut off would end this
  // process).
  static StatusOr<SharedMemory> Open(int fd, size_t bytes);

  SharedMemory(SharedMemory&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }
  int fd() const { return fd_; }
  // The mapping stays.
  void CloseDescriptor();

 private:
  explicit SharedMemory(int fd) : fd_(fd) {}
  Status Map(size_t bytes);

  int fd_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Sends `bytes` over a unix socket at once, `passed` with them (-1: none); Unavailable if the
// socket does not take them all.
Status SendWithDescriptor(int socket, std::span<const std::byte> bytes, int passed);

// As read(2); a descriptor that came with the bytes is put in `passed` in place of the one there,
// which is closed.
int64_t ReceiveWithDescriptor(int socket, std::span<std::byte> bytes, int* passed);

}  // namespace atl::transport
