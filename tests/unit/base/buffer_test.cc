#include "base/buffer.h"

#include <gtest/gtest.h>

#include <cstring>

namespace atl {
namespace {

class BufferTest : public ::testing::TestWithParam<size_t> {};

TEST_P(BufferTest, IsAlignedZeroAndMovable) {
  const size_t size = GetParam();
  Buffer buffer(size);
  ASSERT_EQ(buffer.size(), size);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0);
  for (size_t i = 0; i < size; i += 1013) ASSERT_EQ(buffer.data()[i], std::byte{0});
  if (size == 0) return;
  EXPECT_EQ(buffer.data()[size - 1], std::byte{0});
  std::memset(buffer.data(), 7, size);
  const std::byte* data = buffer.data();
  Buffer moved = std::move(buffer);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(buffer.size(), 0);  // NOLINT: moved-from buffers are empty
  Buffer other(10);
  other = std::move(moved);
  EXPECT_EQ(other.size(), size);
  EXPECT_EQ(other.data()[size - 1], std::byte{7});
}

INSTANTIATE_TEST_SUITE_P(Sizes, BufferTest,
                         ::testing::Values(0, 1, 63, 64, 65, 4096, (size_t{2} << 20) - 1,
                                           size_t{2} << 20, (size_t{5} << 20) + 3));

TEST(BufferTest, GrowsToTheLargestUse) {
  Buffer buffer;
  buffer.Grow(1);
  EXPECT_EQ(buffer.size(), size_t{1} << 16);
  std::memset(buffer.data(), 7, buffer.size());
  const std::byte* data = buffer.data();
  buffer.Grow(size_t{1} << 16);
  EXPECT_EQ(buffer.data(), data);
  EXPECT_EQ(buffer.data()[9], std::byte{7});
  buffer.Grow((size_t{3} << 20) + 1);
  EXPECT_EQ(buffer.size(), (size_t{3} << 20) + 1);
  EXPECT_EQ(buffer.data()[9], std::byte{0});
}

}  // namespace
}  // namespace atl
