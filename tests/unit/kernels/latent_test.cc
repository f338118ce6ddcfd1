#include "kernels/latent.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels_testing.h"

namespace atl::kernels {
namespace {

MlaShape Shape(int64_t r, int64_t dr, DType type) {
  return {.num_heads = 1, .kv_lora_rank = r, .qk_rope_head_dim = dr, .cache_type = type};
}

TEST(Latent, LaysOutPositionAfterPosition) {
  for (DType type : {DType::kF32, DType::kBf16}) {
    const MlaShape shape = Shape(3, 2, type);
    EXPECT_EQ(CacheBlockBytes(shape), 64 * 5 * DTypeBytes(type));
    std::vector<std::byte> block(CacheBlockBytes(shape));
    const float c_kv[] = {1.001f, 2, 3}, k_rope[] = {4, 5.003f};
    StoreLatent(shape, c_kv, k_rope, block.data(), 63);
    const float expected[] = {1.001f, 2, 3, 4, 5.003f};
    for (int64_t i = 0; i < 5; ++i) {
      if (type == DType::kF32) {
        float v;
        std::memcpy(&v, &block[(63 * 5 + i) * 4], 4);
        EXPECT_EQ(v, expected[i]);
      } else {
        Bf16 v;
        std::memcpy(&v, &block[(63 * 5 + i) * 2], 2);
        EXPECT_EQ(v, F32ToBf16(expected[i]));
      }
    }
  }
}

// 512 codes, 4 scales, 64 bf16: written down byte by byte.
TEST(Latent, DeepSeeksFp8Layout) {
  const MlaShape shape = Shape(512, 64, DType::kF8E4M3);
  ASSERT_EQ(CachePositionBytes(shape), 656);
  EXPECT_EQ(CacheBlockBytes(shape), 64 * 656);
  std::vector<std::byte> block(CacheBlockBytes(shape));
  const std::vector<float> c_kv = Random(512, 1, 3), k_rope = Random(64, 2, 5);
  StoreLatent(shape, c_kv.data(), k_rope.data(), block.data(), 5);
  const std::byte* at = block.data() + 5 * 656;
  for (int64_t g = 0; g < 4; ++g) {
    float scale, max = 0;
    std::memcpy(&scale, at + 512 + 4 * g, 4);
    for (int64_t i = g * 128; i < (g + 1) * 128; ++i) max = std::max(max, std::fabs(c_kv[i]));
    EXPECT_EQ(scale, max / 448.0f) << g;
    for (int64_t i = g * 128; i < (g + 1) * 128; ++i) {
      const double value = F8E4M3ToF32(static_cast<uint8_t>(at[i])) * static_cast<double>(scale);
      // Half of the spacing: 2^-4 of the value, and of subnormals 2^-10 scales.
      ASSERT_NEAR(value, c_kv[i], std::max(std::fabs(c_kv[i]) * 0x1.001p-4, scale * 0x1.001p-10));
    }
  }
  for (int64_t i = 0; i < 64; ++i) {
    Bf16 v;
    std::memcpy(&v, at + 528 + 2 * i, 2);
    EXPECT_EQ(v, F32ToBf16(k_rope[i]));
  }
  for (int64_t i = 0; i < 64 * 656; ++i) {
    if (i < 5 * 656 || i >= 6 * 656) {
      ASSERT_EQ(block[i], std::byte{0}) << "wrote outside its position at " << i;
    }
  }
}

TEST(Latent, Fp8OfOtherShapesZerosAndWhatIsNotFinite) {
  EXPECT_EQ(CachePositionBytes(Shape(32, 8, DType::kF8E4M3)), 32 + 4 + 16);
  EXPECT_EQ(CachePositionBytes(Shape(130, 6, DType::kF8E4M3)), 132 + 8 + 12);
  EXPECT_EQ(CachePositionBytes(Shape(256, 2, DType::kF8E4M3)), 256 + 8 + 4);
  const MlaShape shape = Shape(384, 2, DType::kF8E4M3);
  std::vector<std::byte> block(CacheBlockBytes(shape), std::byte{0x55});
  std::vector<float> c_kv(384, 0x1p-101f);
  c_kv[130] = std::nanf("");
  c_kv[300] = -std::numeric_limits<float>::infinity();
  const float k_rope[] = {1, 2};
  StoreLatent(shape, c_kv.data(), k_rope, block.data(), 0);
  float scale[3];
  std::memcpy(scale, &block[384], 12);
  EXPECT_EQ(scale[0], 0) << "all under 2^-100";
  EXPECT_TRUE(std::isnan(scale[1]));
  EXPECT_TRUE(std::isnan(scale[2]));
  for (int64_t i = 0; i < 384; ++i) ASSERT_EQ(block[i], std::byte{0});
}

// What the kernels read of a position is what the layout says, from any multiple of 16 on, and no
// further than asked.
TEST(Latent, WidensAnyPartOfAPosition) {
  const MlaShape shape = Shape(200, 12, DType::kF8E4M3);
  const std::vector<float> x = Random(212, 7, 100);
  std::vector<std::byte> block(CacheBlockBytes(shape), std::byte{0xff});
  StoreLatent(shape, x.data(), x.data() + 200, block.data(), 63);
  const std::byte* at = block.data() + 63 * CachePositionBytes(shape);
  std::vector<float> expected(212);
  for (int64_t i = 0; i < 200; ++i) {
    float scale;
    std::memcpy(&scale, at + 200 + i / 128 * 4, 4);
    expected[i] = F8E4M3ToF32(static_cast<uint8_t>(at[i])) * scale;
  }
  for (int64_t i = 200; i < 212; ++i) expected[i] = RoundToBf16(x[i]);
  BlockKeys keys = KeysOf(shape, at);
  for (Isa isa : SupportedIsas()) {
    for (int64_t first = 0; first <= 200; first += 16) {
      for (const int64_t width : {1, 15, 16, 17, 40, 212}) {
        const int64_t num = std::min(width, 212 - first);
        std::vector<float> to(num + 1, 7.0f);
        Context(isa).table->mla_widen(keys, 1, first, num, to.data(), 0);
        EXPECT_EQ(to.back(), 7.0f);
        to.pop_back();
        ASSERT_TRUE(SameBits(to, std::span(expected).subspan(first, num)))
            << IsaName(isa) << " from " << first << ": " << num;
      }
    }
  }
}

// Every code and a scale: what no text of random numbers reaches for sure.
TEST(Latent, EveryCodeIsWidenedExactly) {
  const MlaShape shape = Shape(256, 2, DType::kF8E4M3);
  std::vector<std::byte> block(CacheBlockBytes(shape));
  const float scales[] = {0.37f, 1024.5f};
  for (int i = 0; i < 256; ++i) block[i] = std::byte{static_cast<uint8_t>(i)};
  std::memcpy(&block[256], scales, sizeof(scales));
  for (Isa isa : SupportedIsas()) {
    std::vector<float> to(256);
    Context(isa).table->mla_widen(KeysOf(shape, block.data()), 1, 0, 256, to.data(), 256);
    for (int i = 0; i < 256; ++i) {
      if (i % 128 == 127) continue;  // NaN: never stored
      ASSERT_TRUE(SameBits(to[i], F8E4M3ToF32(static_cast<uint8_t>(i)) * scales[i / 128])) << i;
    }
  }
}

}  // namespace
}  // namespace atl::kernels
