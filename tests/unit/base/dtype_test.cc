#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace atl {
namespace {

TEST(Bf16Test, RoundsToNearestTiesToEven) {
  EXPECT_EQ(RoundToBf16(1.0f), 1.0f);
  EXPECT_EQ(RoundToBf16(1.0f + 0x1p-9f), 1.0f);            // nearer below
  EXPECT_EQ(RoundToBf16(1.0f + 0x1p-8f), 1.0f);            // a tie, to the even one
  EXPECT_EQ(RoundToBf16(1.0f + 0x3p-8f), 1.0f + 0x1p-6f);  // a tie, to the even one
  EXPECT_EQ(RoundToBf16(1.0f + 0x1p-8f + 0x1p-20f), 1.0f + 0x1p-7f);
  EXPECT_EQ(RoundToBf16(-2.0f - 0x1p-6f), -2.0f - 0x1p-6f);
  EXPECT_TRUE(std::isinf(RoundToBf16(std::numeric_limits<float>::max())));
  EXPECT_TRUE(std::isnan(RoundToBf16(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(RoundToBf16(0x1p-133f), 0x1p-133f);  // the smallest denormal of bf16
}

TEST(Bf16Test, EveryValueSurvivesTheWayThereAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Bf16ToF32(static_cast<Bf16>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(F32ToBf16(value), bits);
  }
}

TEST(F16Test, MatchesTheCompilersOwnHalf) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = std::bit_cast<_Float16>(static_cast<uint16_t>(bits));
    const float expected = static_cast<float>(half), found = F16ToF32(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << bits;
    }
  }
}

TEST(F8E4M3Test, ValuesOfTheFormat) {
  EXPECT_EQ(F8E4M3ToF32(0x00), 0.0f);
  EXPECT_TRUE(std::signbit(F8E4M3ToF32(0x80)));
  EXPECT_EQ(F8E4M3ToF32(0x01), 0x1p-9f);      // smallest denormal
  EXPECT_EQ(F8E4M3ToF32(0x07), 7 * 0x1p-9f);  // largest denormal
  EXPECT_EQ(F8E4M3ToF32(0x08), 0x1p-6f);      // smallest normal
  EXPECT_EQ(F8E4M3ToF32(0x38), 1.0f);
  EXPECT_EQ(F8E4M3ToF32(0xb9), -1.125f);
  EXPECT_EQ(F8E4M3ToF32(0x7e), 448.0f);  // largest
  EXPECT_TRUE(std::isnan(F8E4M3ToF32(0x7f)));
  EXPECT_TRUE(std::isnan(F8E4M3ToF32(0xff)));
}

// The code whose value is nearest to v, the even code on a tie, by looking at all of them.
template <typename Decode>
uint32_t NearestCode(float v, uint32_t num_codes, Decode decode) {
  uint32_t best = 0;
  double distance = INFINITY;
  for (uint32_t code = 0; code < num_codes; ++code) {
    const double value = decode(code);
    if (!std::isfinite(value)) continue;
    const double d = std::fabs(value - static_cast<double>(v));
    if (d < distance || (d == distance && code % 2 == 0)) {
      best = code;
      distance = d;
    }
  }
  return best;
}

TEST(F8E4M3Test, EveryCodeSurvivesTheWayThereAndBack) {
  for (uint32_t code = 0; code < 256; ++code) {
    const float value = F8E4M3ToF32(static_cast<uint8_t>(code));
    if (std::isnan(value)) {
      EXPECT_EQ(F32ToF8E4M3(value) & 0x7f, 0x7f);
    } else {
      EXPECT_EQ(F32ToF8E4M3(value), code) << value;
    }
  }
}

TEST(F8E4M3Test, TakesTheNearest) {
  const auto decode = [](uint32_t code) { return F8E4M3ToF32(static_cast<uint8_t>(code)); };
  std::vector<float> values = {0.0f, 1e-30f, 440.0f, 447.9f, 448.0f};
  for (uint32_t code = 0; code + 1 < 127; ++code) {
    const float low = decode(code), high = decode(code + 1), middle = (low + high) / 2;
    for (const float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f),
                          low + (high - low) / 3}) {
      values.push_back(v);
    }
  }
  for (const float v : values) {
    EXPECT_EQ(F32ToF8E4M3(v), NearestCode(v, 128, decode)) << v;
    EXPECT_EQ(F32ToF8E4M3(-v), NearestCode(v, 128, decode) | 0x80) << -v;
  }
}

TEST(F8E4M3Test, Saturates) {
  EXPECT_EQ(F32ToF8E4M3(449), 0x7e);
  EXPECT_EQ(F32ToF8E4M3(-INFINITY), 0xfe);
  EXPECT_EQ(F32ToF8E4M3(NAN) & 0x7f, 0x7f);
}

TEST(DTypeTest, NamesAreThoseOfSafetensors) {
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16, DType::kF8E4M3}) {
    const auto parsed = ParseDType(DTypeName(dtype));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, dtype);
  }
  EXPECT_EQ(ParseDType("I64").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace atl
