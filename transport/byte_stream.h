// Where the bytes of a link go: a socket, or memory shared with the peer.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"

namespace atl::transport {

// Bytes both ways between two processes, in order, never blocking. Lives on one EventLoop's thread.
class ByteStream {
 public:
  virtual ~ByteStream() = default;  // closes

  // Called once. `on_ready` comes from turns of the loop until Close: again and again while there
  // are bytes to read or the peer is gone (`readable`), and, as far as WantWrite asked for it,
  // while there is room (`writable`). The stream may be destroyed inside.
  virtual void Start(std::function<void(bool readable, bool writable)> on_ready) = 0;

  // Fills `parts` in order as far as bytes have come, perhaps to the end; 0: none for now.
  // Unavailable: the peer is gone and all that it wrote has been read. InvalidArgument: it broke
  // the stream's own rules.
  virtual StatusOr<int64_t> Read(std::span<const iovec> parts) = 0;

  // Takes from `parts` in order as far as there is room; 0: none for now. Errors as Read's, but the
  // end may be left to Read.
  virtual StatusOr<int64_t> Write(std::span<const iovec> parts) = 0;

  virtual void WantWrite(bool on) = 0;

  // The peer reads what was written before, then is told. No call but the destructor may follow.
  virtual void Close() = 0;
};

}  // namespace atl::transport
