#include "transport/shm_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/transport/link_harness.h"

namespace atl::transport {
namespace {

constexpr int kGuardBytes = 64;  // behind the ring

struct Ring {
  explicit Ring(uint64_t capacity)
      : data(capacity + kGuardBytes),
        writer(&indexes, data.data(), capacity),
        reader(&indexes, data.data(), capacity) {}
  RingIndexes indexes = {};
  std::vector<std::byte> data;
  RingWriter writer;
  RingReader reader;
};

TEST(ShmRingTest, EveryLengthAtEveryOffset) {
  constexpr uint64_t kCapacity = 64;
  for (uint64_t offset = 0; offset < kCapacity; ++offset) {
    for (uint64_t length = 0; length <= kCapacity + 1; ++length) {
      Ring ring(kCapacity);
      std::byte skipped[kCapacity];
      ASSERT_EQ(ring.writer.Write(skipped, offset).value(), offset);
      ASSERT_EQ(ring.reader.Read(skipped, offset).value(), offset);
      const Buffer sent = Pattern(length, offset * 100 + length);
      const uint64_t fits = std::min(length, kCapacity);
      ASSERT_EQ(ring.writer.Write(sent.data(), length).value(), fits);
      ASSERT_EQ(ring.reader.HasBytes(), length != 0);
      // Two bytes more than there are, with guards behind.
      std::vector<std::byte> got(kCapacity + 8, std::byte{0xee});
      ASSERT_EQ(ring.reader.Read(got.data(), kCapacity + 2).value(), fits);
      ASSERT_TRUE(std::equal(got.begin(), got.begin() + fits, sent.data())) << offset;
      ASSERT_TRUE(std::all_of(got.begin() + fits, got.end(),
                              [](std::byte b) { return b == std::byte{0xee}; }));
      ASSERT_FALSE(ring.reader.HasBytes());
    }
  }
}

// Long copies go another way than short ones.
TEST(ShmRingTest, LongCopiesAtEveryAlignment) {
  constexpr uint64_t kCapacity = 16'384;
  for (uint64_t offset = 0; offset < 130; ++offset) {
    for (const uint64_t length : {4095, 4096, 4097, 4160, 8191, 16'383, 16'384}) {
      Ring ring(kCapacity);
      const Buffer skipped = Pattern(offset, 1);
      Buffer got(kCapacity);
      ASSERT_EQ(ring.writer.Write(skipped.data(), offset).value(), offset);
      ASSERT_EQ(ring.reader.Read(got.data(), offset).value(), offset);
      const Buffer sent = Pattern(length + 1, length + offset);
      ASSERT_EQ(ring.writer.Write(sent.data() + 1, length).value(), length);
      ASSERT_EQ(ring.reader.Read(got.data(), kCapacity).value(), length);
      ASSERT_TRUE(std::equal(got.data(), got.data() + length, sent.data() + 1))
          << offset << " " << length;
      ASSERT_TRUE(std::all_of(ring.data.end() - kGuardBytes, ring.data.end(),
                              [](std::byte b) { return b == std::byte{0}; }));
    }
  }
}

TEST(ShmRingTest, TwoThreadsKeepTheBytesInOrder) {
  constexpr uint64_t kBytes = 3'000'000;
  Ring ring(4096);
  const Buffer sent = Pattern(kBytes, 5);
  std::thread other([&] {
    std::mt19937 rng(1);
    for (uint64_t put = 0; put < kBytes;) {
      const uint64_t n =
          ring.writer.Write(sent.data() + put, std::min<uint64_t>(rng() % 5000, kBytes - put))
              .value();
      put += n;
      if (n == 0) std::this_thread::yield();
    }
  });
  Buffer got(kBytes);
  std::mt19937 rng(2);
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  uint64_t taken = 0;
  while (taken < kBytes && absl::Now() < deadline) {
    const uint64_t n =
        ring.reader.Read(got.data() + taken, std::min<uint64_t>(rng() % 5000, kBytes - taken))
            .value();
    taken += n;
    if (n == 0) std::this_thread::yield();
  }
  other.join();
  ASSERT_EQ(taken, kBytes);
  EXPECT_TRUE(IsPattern(got, kBytes, 5));
}

TEST(ShmRingTest, AReaderIndexThatCannotBeIsTold) {
  const std::byte bytes[64] = {};
  for (const uint64_t consumed : {uint64_t{65}, uint64_t{1} << 63, ~uint64_t{0}}) {
    Ring ring(64);
    ASSERT_EQ(ring.writer.Write(bytes, 64).value(), 64u);
    ring.indexes.consumed = consumed;
    EXPECT_TRUE(ring.writer.HasSpace()) << "so that Write comes to tell";
    EXPECT_EQ(ring.writer.Write(bytes, 1).status().code(), absl::StatusCode::kInvalidArgument);
  }
  Ring ring(64);
  std::byte out[64];
  ASSERT_EQ(ring.writer.Write(bytes, 64).value(), 64u);
  ASSERT_EQ(ring.reader.Read(out, 10).value(), 10u);
  ASSERT_EQ(ring.writer.Write(bytes, 10).value(), 10u);
  ring.indexes.consumed = 9;  // gives back less than before
  EXPECT_EQ(ring.writer.Write(bytes, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ShmRingTest, AWriterIndexThatCannotBeIsTold) {
  std::byte bytes[64] = {};
  for (const uint64_t written : {uint64_t{65}, uint64_t{1} << 63, ~uint64_t{0}}) {
    Ring ring(64);
    ring.indexes.written = written;
    EXPECT_TRUE(ring.reader.HasBytes());
    EXPECT_EQ(ring.reader.Read(bytes, 64).status().code(), absl::StatusCode::kInvalidArgument);
  }
  Ring ring(64);
  ASSERT_EQ(ring.writer.Write(bytes, 20).value(), 20u);
  ASSERT_EQ(ring.reader.Read(bytes, 10).value(), 10u);
  ring.indexes.written = 19;  // takes back what it had published
  EXPECT_EQ(ring.reader.Read(bytes, 64).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ShmRingTest, TheWriterIsWokenOnceWhenHalfIsFree) {
  Ring ring(64);
  std::byte bytes[64] = {};
  ASSERT_EQ(ring.writer.Write(bytes, 64).value(), 64u);
  EXPECT_FALSE(ring.writer.HasSpace());
  ring.writer.WantSpace(true);
  ASSERT_EQ(ring.reader.Read(bytes, 31).value(), 31u);
  EXPECT_FALSE(ring.reader.TakeWantsSpace());
  ASSERT_EQ(ring.reader.Read(bytes, 1).value(), 1u);
  EXPECT_TRUE(ring.writer.HasSpace());
  EXPECT_TRUE(ring.reader.TakeWantsSpace());
  EXPECT_FALSE(ring.reader.TakeWantsSpace());
}

}  // namespace
}  // namespace atl::transport
