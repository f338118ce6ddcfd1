// The stream over a connected socket: unix and tcp differ in their options alone.
#pragma once

#include <memory>

#include "transport/byte_stream.h"
#include "transport/event_loop.h"
#include "transport/link.h"

namespace atl::transport {

// Sets what a data-plane socket needs: non-blocking; for tcp also no delay, keepalive and a user
// timeout.
Status PrepareSocket(int fd, LinkKind kind);

// Takes over `fd`: connected, prepared.
std::unique_ptr<ByteStream> MakeSocketStream(EventLoop* loop, int fd);

}  // namespace atl::transport
