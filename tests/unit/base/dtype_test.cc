#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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
