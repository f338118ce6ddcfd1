#include "model/encode.h"

#include <gtest/gtest.h>

#include <cmath>

namespace atl::model {
namespace {

TEST(Encode, EveryF16RoundTripsAndMiddlesGoToEven) {
  for (uint32_t code = 0; code < 0x7c00; ++code) {
    const float low = F16ToF32(static_cast<uint16_t>(code));
    EXPECT_EQ(F32ToF16(low), code);
    EXPECT_EQ(F32ToF16(-low), code | 0x8000);
    const float high = code + 1 < 0x7c00 ? F16ToF32(static_cast<uint16_t>(code + 1)) : 65536.0f;
    const float middle = (low + high) / 2;
    EXPECT_EQ(F32ToF16(middle), code + code % 2) << middle;
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 0.0f)), code) << middle;
    EXPECT_EQ(F32ToF16(std::nextafter(middle, 1e9f)), code + 1) << middle;
  }
  EXPECT_EQ(F32ToF16(INFINITY), 0x7c00);
  EXPECT_EQ(F32ToF16(-1e30f), 0xfc00);
  EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(NAN))));
}

}  // namespace
}  // namespace atl::model
