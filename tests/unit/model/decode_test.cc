#include "model/decode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace atl::model {
namespace {

// Every half from its definition: (-1)^s 2^(e-15) (1 + m/1024), subnormals 2^-14 m/1024.
float Half(uint16_t v) {
  const int e = (v >> 10) & 31;
  const int m = v & 1023;
  const double sign = v & 0x8000 ? -1 : 1;
  if (e == 31) return m ? NAN : static_cast<float>(sign * INFINITY);
  return static_cast<float>(sign * (e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25)));
}

TEST(Decode, EveryHalf) {
  std::vector<uint16_t> raw(65536);
  for (int i = 0; i < 65536; ++i) raw[i] = static_cast<uint16_t>(i);
  std::vector<float> out(raw.size());
  WidenToF32(DType::kF16, reinterpret_cast<const std::byte*>(raw.data()), raw.size(), out.data());
  for (int i = 0; i < 65536; ++i) {
    const float expected = Half(raw[i]);
    ASSERT_TRUE(std::isnan(expected)
                    ? std::isnan(out[i])
                    : out[i] == expected && std::signbit(out[i]) == std::signbit(expected))
        << i;
  }
}

TEST(Decode, UnalignedBytes) {
  const std::vector<uint8_t> raw = {0xff, 0x80, 0x3f, 0x00, 0xc0, 0x00, 0x00, 0x40, 0x40};
  float out[2];
  WidenToF32(DType::kBf16, reinterpret_cast<const std::byte*>(raw.data() + 1), 2, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  WidenToF32(DType::kF32, reinterpret_cast<const std::byte*>(raw.data() + 5), 1, out);
  EXPECT_EQ(out[0], 3.0f);
}

TEST(Decode, FindsTheFirstNonFiniteAtAnyPlace) {
  std::vector<float> values(10000, std::numeric_limits<float>::max());
  values[17] = -std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(FindNonFinite(values.data(), values.size()), -1);
  EXPECT_EQ(FindNonFinite(values.data(), 0), -1);
  values[9999] = NAN;
  EXPECT_EQ(FindNonFinite(values.data(), values.size()), 9999);
  EXPECT_EQ(FindNonFinite(values.data(), 9999), -1);
  values[4096] = -INFINITY;
  EXPECT_EQ(FindNonFinite(values.data(), values.size()), 4096);
  values[0] = INFINITY;
  EXPECT_EQ(FindNonFinite(values.data(), values.size()), 0);
}

TEST(Decode, ScalesBlockByBlock) {
  std::vector<float> row(300, 3.0f);
  const float scale[] = {0.5f, -2.0f, 0.0f};
  ScaleRow(row.data(), 300, scale, 128);
  EXPECT_EQ(row[127], 1.5f);
  EXPECT_EQ(row[128], -6.0f);
  EXPECT_EQ(row[255], -6.0f);
  EXPECT_EQ(row[256], 0.0f);
  EXPECT_EQ(row[299], 0.0f);
}

}  // namespace
}  // namespace atl::model
