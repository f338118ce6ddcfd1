#include "kernels/elementwise.h"

#include <cmath>
#include <limits>

#include "kernels_testing.h"

namespace atl::kernels {
namespace {

// The header's order, one operation at a time.
std::vector<float> RmsNormInOrder(const float* x, const float* weight, float eps, int64_t n) {
  float lane[16] = {};
  for (int64_t k = 0; k < n; ++k) lane[k % 16] = std::fma(x[k], x[k], lane[k % 16]);
  const float scale = 1.0f / std::sqrt(AddLanes(lane) / static_cast<float>(n) + eps);
  std::vector<float> y(n);
  for (int64_t k = 0; k < n; ++k) y[k] = x[k] * scale * weight[k];
  return y;
}

TEST(RmsNorm, HasTheBitsOfItsDefinition) {
  ForEachContext([](const KernelContext& ctx) {
    for (int64_t n : {1, 7, 16, 44, 136, 2048}) {
      for (int64_t rows : {1, 3, 40}) {
        const int64_t ldx = n + 3, ldy = n + 5;
        const std::vector<float> x = Random(rows * ldx, 1, 4), weight = Random(n, 2);
        for (Rounding rounding : {Rounding::kNone, Rounding::kBf16}) {
          std::vector<float> y(rows * ldy, 7.0f);
          RmsNorm(ctx, x.data(), ldx, weight.data(), 1e-6f, rows, n, y.data(), ldy, rounding);
          for (int64_t t = 0; t < rows; ++t) {
            std::vector<float> expected = RmsNormInOrder(&x[t * ldx], weight.data(), 1e-6f, n);
            if (rounding == Rounding::kBf16) expected = RoundedToBf16(expected);
            ASSERT_TRUE(SameBits(std::span(&y[t * ldy], n), expected)) << "n " << n << " row " << t;
            for (int64_t k = n; k < ldy; ++k)
              ASSERT_EQ(y[t * ldy + k], 7.0f) << "wrote behind the row";
          }
        }
      }
    }
  });
}

TEST(RmsNorm, IsTheFormula) {
  const int64_t n = 2000;
  const std::vector<float> x = Random(n, 3, 2), weight = Random(n, 4);
  double squares = 0;
  for (float v : x) squares += static_cast<double>(v) * v;
  const double scale = 1 / std::sqrt(squares / n + 1e-5);
  std::vector<float> y(n);
  RmsNorm(Context(BestIsa()), x.data(), n, weight.data(), 1e-5f, 1, n, y.data(), n,
          Rounding::kNone);
  for (int64_t k = 0; k < n; ++k) {
    // 125 additions a lane, each off by half an ulp of a sum that all of one sign: (125 + 8) eps /
    // 2 after the root.
    const double exact = x[k] * scale * weight[k];
    ASSERT_NEAR(y[k], exact, std::abs(exact) * 70 * 0x1p-23 + 1e-30);
  }
}

TEST(RmsNorm, InPlace) {
  const int64_t n = 44;
  const std::vector<float> x = Random(2 * n, 5), weight = Random(n, 6);
  for (Isa isa : SupportedIsas()) {
    std::vector<float> apart(2 * n), in_place = x;
    RmsNorm(Context(isa), x.data(), n, weight.data(), 1e-6f, 2, n, apart.data(), n,
            Rounding::kNone);
    RmsNorm(Context(isa), in_place.data(), n, weight.data(), 1e-6f, 2, n, in_place.data(), n,
            Rounding::kNone);
    EXPECT_TRUE(SameBits(in_place, apart));
  }
}

TEST(Elementwise, AddInPlace) {
  ForEachContext([](const KernelContext& ctx) {
    for (int64_t n : {0, 1, 15, 16, 33, 70001}) {
      std::vector<float> x = Random(n, 7), expected = x;
      const std::vector<float> y = Random(n, 8);
      for (int64_t i = 0; i < n; ++i) expected[i] += y[i];
      AddInPlace(ctx, x.data(), y.data(), n);
      ASSERT_TRUE(SameBits(x, expected));
    }
  });
}

// Every bf16 and what lies around the middle of its neighbours, as float32.
std::vector<float> HardForBf16() {
  std::vector<float> x;
  for (uint32_t high = 0; high < 0x10000; high += 3) {
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      x.push_back(std::bit_cast<float>(high << 16 | low));
  }
  return x;
}

TEST(Elementwise, Bf16ConversionsAreThoseOfBase) {
  const std::vector<float> x = HardForBf16();
  const int64_t n = static_cast<int64_t>(x.size());
  ForEachContext([&](const KernelContext& ctx) {
    std::vector<Bf16> narrow(n);
    std::vector<float> rounded = x, wide(n);
    F32ToBf16Range(ctx, x.data(), n, narrow.data());
    RoundRange(ctx, rounded.data(), n, Rounding::kBf16);
    Bf16ToF32Range(ctx, narrow.data(), n, wide.data());
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(narrow[i], F32ToBf16(x[i])) << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(rounded[i]), uint32_t{narrow[i]} << 16) << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), uint32_t{narrow[i]} << 16) << i;
    }
    std::vector<float> kept = x;
    RoundRange(ctx, kept.data(), n, Rounding::kNone);
    EXPECT_TRUE(SameBits(kept, x));
  });
}

TEST(Elementwise, ShortRangesWriteNoFurther) {
  const std::vector<float> x = Random(40, 9);
  for (Isa isa : SupportedIsas()) {
    const KernelContext ctx = Context(isa);
    for (int64_t n = 0; n < 34; ++n) {
      std::vector<Bf16> narrow(40, 0x1234);
      F32ToBf16Range(ctx, x.data(), n, narrow.data());
      std::vector<float> wide(40, 5.0f);
      Bf16ToF32Range(ctx, narrow.data(), n, wide.data());
      for (int64_t i = 0; i < 40; ++i) {
        ASSERT_EQ(narrow[i], i < n ? F32ToBf16(x[i]) : 0x1234);
        ASSERT_EQ(wide[i], i < n ? RoundToBf16(x[i]) : 5.0f);
      }
    }
  }
}

}  // namespace
}  // namespace atl::kernels
