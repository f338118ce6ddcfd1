// A ring of bytes in memory that two processes share: one writes, the other reads. The peer may
// write anything anywhere in it at any time; nothing here trusts what it has written.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace atl::transport {

// In shared memory, zero at first. Counts of bytes since the beginning: place in the ring is the
// count modulo the capacity. Each side owns one and keeps its own copy, which is the one it
// believes.
struct RingIndexes {
  alignas(64) uint64_t written;      // the writer's
  alignas(64) uint64_t consumed;     // the reader's
  alignas(64) uint32_t wants_space;  // 1: the writer waits until half of the ring is free
};
static_assert(sizeof(RingIndexes) == 192);
static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);
static_assert(std::atomic_ref<uint32_t>::is_always_lock_free);

// Thread-compatible. `indexes` and `data` [capacity, a power of two] outlive it.
class RingWriter {
 public:
  RingWriter(RingIndexes* indexes, std::byte* data, uint64_t capacity)
      : indexes_(indexes), data_(data), capacity_(capacity) {}

  // Copies and publishes as many of `bytes` as there is room for; returns how many.
  // InvalidArgument: the reader's index is one that cannot be.
  StatusOr<uint64_t> Write(const std::byte* bytes, uint64_t count);

  // Asks the reader to wake this side when half of the ring is free.
  void WantSpace(bool on);
  // Half of the ring is free, or the reader's index is broken: Write has something to say.
  bool HasSpace() const;

 private:
  RingIndexes* const indexes_;
  std::byte* const data_;
  const uint64_t capacity_;
  uint64_t written_ = 0;
  uint64_t consumed_ = 0;  // as last seen
};

class RingReader {
 public:
  RingReader(RingIndexes* indexes, const std::byte* data, uint64_t capacity)
      : indexes_(indexes), data_(data), capacity_(capacity) {}

  // Copies out at most `count` bytes and gives their room back; returns how many.
  // InvalidArgument: the writer's index is one that cannot be.
  StatusOr<uint64_t> Read(std::byte* out, uint64_t count);

  // There is something to read, or the writer's index is broken.
  bool HasBytes() const;
  // The writer waits and half of the ring is free now: it is to be woken. True once.
  bool TakeWantsSpace();

 private:
  RingIndexes* const indexes_;
  const std::byte* const data_;
  const uint64_t capacity_;
  uint64_t consumed_ = 0;
  uint64_t written_ = 0;  // as last seen
};

}  // namespace atl::transport
