#include "kernels/matmul.h"

#include <cmath>

#include "kernels_testing.h"

namespace atl::kernels {
namespace {

std::vector<float> Weights(WeightFormat format, int64_t n, int64_t k, uint32_t seed) {
  std::vector<float> w = Random(n * k, seed);
  return format == WeightFormat::kBf16 ? RoundedToBf16(w) : w;
}

// The header's chain.
float Chain(const float* x, const float* w, int64_t k) {
  float acc = 0;
  for (int64_t i = 0; i < k; ++i) acc = std::fma(x[i], w[i], acc);
  return acc;
}

struct Case {
  WeightFormat format;
  int64_t m, n, k;
};

// The product with a lead of 3 beyond K and N, checking that nothing behind a row is written.
std::vector<float> Multiply(const KernelContext& ctx, const PackedMatrix& w,
                            const std::vector<float>& x, int64_t m, Rounding rounding) {
  const int64_t ldx = w.k() + 3, ldy = w.n() + 3;
  std::vector<float> wide_x(m * ldx, std::nanf("")), wide_y(m * ldy, 5.0f), y;
  for (int64_t i = 0; i < m; ++i) std::copy_n(&x[i * w.k()], w.k(), &wide_x[i * ldx]);
  MatMul(ctx, {.w = &w,
               .x = wide_x.data(),
               .ldx = ldx,
               .m = m,
               .y = wide_y.data(),
               .ldy = ldy,
               .rounding = rounding});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t c = w.n(); c < ldy; ++c)
      EXPECT_EQ(wide_y[i * ldy + c], 5.0f) << "wrote behind row " << i;
    y.insert(y.end(), &wide_y[i * ldy], &wide_y[i * ldy + w.n()]);
  }
  return y;
}

TEST(MatMul, EveryOutputIsOneChainOfFma) {
  const Case cases[] = {{WeightFormat::kBf16, 1, 16, 16},   {WeightFormat::kBf16, 1, 40, 44},
                        {WeightFormat::kBf16, 5, 8, 43},    {WeightFormat::kBf16, 6, 64, 1},
                        {WeightFormat::kBf16, 7, 136, 7},   {WeightFormat::kBf16, 13, 100, 65},
                        {WeightFormat::kBf16, 8, 33, 2051}, {WeightFormat::kF32, 1, 16, 16},
                        {WeightFormat::kF32, 1, 1, 1},      {WeightFormat::kF32, 4, 136, 44},
                        {WeightFormat::kF32, 6, 24, 48},    {WeightFormat::kF32, 12, 65, 40},
                        {WeightFormat::kF32, 7, 20, 1025},  {WeightFormat::kF32, 200, 70, 24},
                        {WeightFormat::kBf16, 193, 66, 24}, {WeightFormat::kBf16, 2, 600, 1000},
                        {WeightFormat::kBf16, 0, 16, 16}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message()
                 << WeightFormatName(c.format) << " m " << c.m << " n " << c.n << " k " << c.k);
    const std::vector<float> w = Weights(c.format, c.n, c.k, 1), x = Random(c.m * c.k, 2);
    const PackedMatrix packed = Pack(c.format, c.n, c.k, w);
    std::vector<float> expected(c.m * c.n);
    for (int64_t i = 0; i < c.m * c.n; ++i)
      expected[i] = Chain(&x[i / c.n * c.k], &w[i % c.n * c.k], c.k);
    ForEachContext([&](const KernelContext& ctx) {
      ASSERT_TRUE(SameBits(Multiply(ctx, packed, x, c.m, Rounding::kNone), expected));
      ASSERT_TRUE(
          SameBits(Multiply(ctx, packed, x, c.m, Rounding::kBf16), RoundedToBf16(expected)));
    });
  }
}

// All small tiles: rows 1 to 13 of panels 1 to 5, against the same rows one by one.
TEST(MatMul, ARowDoesNotDependOnTheOthers) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16}) {
    for (int64_t n = 16; n <= 80; n += 16) {
      const int64_t k = 45, most = 13;
      const PackedMatrix w = Pack(format, n, k, Weights(format, n, k, 3));
      const std::vector<float> x = Random(most * k, 4);
      for (Isa isa : SupportedIsas()) {
        const KernelContext ctx = Context(isa);
        std::vector<float> alone;
        for (int64_t i = 0; i < most; ++i) {
          const std::vector<float> row(&x[i * k], &x[i * k] + k);
          const std::vector<float> y = Multiply(ctx, w, row, 1, Rounding::kNone);
          alone.insert(alone.end(), y.begin(), y.end());
        }
        for (int64_t m = 1; m <= most; ++m) {
          ASSERT_TRUE(
              SameBits(Multiply(ctx, w, x, m, Rounding::kNone), std::span(alone).first(m * n)))
              << IsaName(isa) << " n " << n << " m " << m;
        }
      }
    }
  }
}

TEST(MatMul, IsTheProduct) {
  const int64_t m = 3, n = 48, k = 2048;
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16}) {
    const std::vector<float> w = Weights(format, n, k, 5), x = Random(m * k, 6);
    const std::vector<float> y =
        Multiply(Context(BestIsa()), Pack(format, n, k, w), x, m, Rounding::kNone);
    for (int64_t i = 0; i < m * n; ++i) {
      double exact = 0, norm = 0;
      for (int64_t j = 0; j < k; ++j) {
        const double term = static_cast<double>(x[i / n * k + j]) * w[i % n * k + j];
        exact += term;
        norm += std::abs(term);
      }
      ASSERT_NEAR(y[i], exact,
                  norm * std::sqrt(k) *
                      0x1p-23);  // a bound far above the random walk, far under a lost term
    }
  }
}

TEST(MatMul, ManyJobsOfManyShapesInOneCall) {
  const int64_t k = 44;
  std::vector<PackedMatrix> w;
  std::vector<std::vector<float>> x, y, expected;
  for (int64_t i = 0; i < 90; ++i) {
    const int64_t n = 1 + i * 37 % 150, m = i * 5 % 14;
    const WeightFormat format = i % 2 == 0 ? WeightFormat::kF32 : WeightFormat::kBf16;
    const std::vector<float> weights = Weights(format, n, k, 100 + i);
    w.push_back(Pack(format, n, k, weights));
    x.push_back(Random(m * k, 200 + i));
    std::vector<float> product(m * n);
    for (int64_t j = 0; j < m * n; ++j)
      product[j] = Chain(&x[i][j / n * k], &weights[j % n * k], k);
    expected.push_back(product);
  }
  ForEachContext([&](const KernelContext& ctx) {
    y.clear();
    std::vector<MatMulJob> jobs;
    for (size_t i = 0; i < w.size(); ++i) {
      const int64_t n = w[i].n(), m = static_cast<int64_t>(x[i].size()) / k;
      y.emplace_back(m * n);
      jobs.push_back({.w = &w[i], .x = x[i].data(), .ldx = k, .m = m, .y = y[i].data(), .ldy = n});
    }
    MatMul(ctx, jobs);
    for (size_t i = 0; i < w.size(); ++i) ASSERT_TRUE(SameBits(y[i], expected[i])) << "job " << i;
    MatMul(ctx, std::span<const MatMulJob>());
  });
}

TEST(PackedMatrix, ReadRowGivesBackWhatWasFilled) {
  for (int64_t k : {1, 2, 43, 44}) {
    for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16}) {
      const int64_t n = 35;
      const std::vector<float> w = Random(n * k, 7);
      const PackedMatrix packed = Pack(format, n, k, w);
      EXPECT_EQ(packed.num_panels(), 3);
      EXPECT_EQ(packed.bytes(), 3 * packed.panel_bytes());
      const std::vector<float> expected = format == WeightFormat::kBf16 ? RoundedToBf16(w) : w;
      std::vector<float> row(k);
      for (int64_t i = 0; i < n; ++i) {
        packed.ReadRow(i, row.data());
        ASSERT_TRUE(SameBits(row, std::span(expected).subspan(i * k, k)))
            << "row " << i << " k " << k;
      }
    }
  }
  EXPECT_TRUE(PackedMatrix().empty());
  EXPECT_STREQ(WeightFormatName(WeightFormat::kBf16), "bf16");
}

}  // namespace
}  // namespace atl::kernels
