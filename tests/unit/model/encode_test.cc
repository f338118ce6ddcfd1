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

// Two blocks of columns: the largest of each becomes 448, what is divided by is given back.
TEST(Encode, BlocksAreScaledByTheirLargest) {
  std::vector<float> values = {1, -8, 0.5f, 3, 2,  //
                               4, 2,  7,    0, -0.25f};
  const std::vector<float> original = values;
  const std::vector<float> scale = ScaleBlocks(values, 5, 3);
  EXPECT_EQ(scale, (std::vector<float>{8.0f / 448, 3.0f / 448}));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(values[i], original[i] / scale[i % 5 / 3]);
  EXPECT_EQ(F32ToF8E4M3(values[1]), 0xfe);
  EXPECT_EQ(F32ToF8E4M3(values[3]), 0x7e);
}

TEST(Encode, BlocksOfNothingHaveTheScale1) {
  for (const float nothing : {0.0f, -std::numeric_limits<float>::denorm_min()}) {
    std::vector<float> values(6, nothing);
    EXPECT_EQ(ScaleBlocks(values, 3, 128), std::vector<float>{1});
    EXPECT_EQ(F32ToF8E4M3(values[5]) & 0x7f, 0);
  }
}

}  // namespace
}  // namespace atl::model
