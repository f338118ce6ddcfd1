// The stream through memory: a ring of bytes each way in a memfd, and the unix socket that it came
// over. The socket carries no more bytes but wake-ups, and its end is the peer's end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "transport/byte_stream.h"
#include "transport/event_loop.h"
#include "transport/shm_memory.h"
#include "transport/shm_ring.h"

namespace atl::transport {

// In shared memory, at its beginning; then the ring to the listener, then the ring to the
// connector. Drawn in docs/wire.md.
struct ShmControl {
  alignas(64) uint32_t listener_asleep;  // 1: wake me when there is something to read, or room
  alignas(64) uint32_t connector_asleep;
  RingIndexes to_listener;
  RingIndexes to_connector;
};
// Also what keeps the whole from being a multiple of a huge page: memory of those, which ends who
// touches it when the machine has run out of them, cannot have the right size.
inline constexpr size_t kShmControlBytes = 4096;
static_assert(offsetof(ShmControl, connector_asleep) == 64);
static_assert(offsetof(ShmControl, to_listener) == 128);
static_assert(offsetof(ShmControl, to_connector) == 320);
static_assert(sizeof(ShmControl) <= kShmControlBytes);

// Bytes of the ring to a side with that window: a power of two, at most 1 MiB. Larger frames pass
// in pieces.
uint64_t ShmRingBytes(int64_t window_bytes);
// Bytes of the whole.
size_t ShmBytes(int64_t listener_window_bytes, int64_t connector_window_bytes);

enum class ShmSide : uint8_t { kListener, kConnector };

// Takes over `socket`: connected, non-blocking, both hellos exchanged. `memory` has the ShmBytes of
// the two windows.
std::unique_ptr<ByteStream> MakeShmStream(EventLoop* loop, int socket, SharedMemory memory,
                                          ShmSide side, int64_t listener_window_bytes,
                                          int64_t connector_window_bytes);

}  // namespace atl::transport
