// Products with 8- and 4-bit weights (matmul.h) against their definition.
#include <cmath>
#include <limits>

#include "kernels/exact_math.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels_testing.h"
#include "quant_testing.h"

namespace atl::kernels {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kQ8, WeightFormat::kQ4};

// Groups of very different size, some of them all zero.
std::vector<float> Uneven(int64_t rows, int64_t k, uint32_t seed) {
  std::vector<float> x = Random(rows * k, seed);
  for (int64_t i = 0; i < rows * k; ++i) {
    const int64_t group = i / k * 7 + i % k / 32;
    x[i] = group % 5 == 4 ? 0 : std::ldexp(x[i], static_cast<int>(group % 11) - 5);
  }
  return x;
}

std::vector<float> Expected(WeightFormat format, const std::vector<float>& x,
                            const std::vector<float>& w, int64_t m, int64_t n, int64_t k) {
  std::vector<QuantizedRow> rows, outputs;
  for (int64_t i = 0; i < m; ++i) rows.push_back(QuantizeInputs(x.data() + i * k, k));
  for (int64_t i = 0; i < n; ++i) outputs.push_back(QuantizeWeights(format, w.data() + i * k, k));
  std::vector<float> y;
  for (int64_t i = 0; i < m * n; ++i) y.push_back(QuantChain(rows[i / n], outputs[i % n]));
  return y;
}

// With leads beyond K and N, checking that nothing behind a row is read or written.
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

struct Case {
  int64_t m, n, k;
};

TEST(QuantMatMul, EveryOutputIsOneChainOverGroups) {
  const Case cases[] = {{1, 16, 32},   {1, 40, 64},    {2, 16, 96},   {3, 64, 1},
                        {4, 70, 33},   {5, 8, 43},     {7, 136, 608}, {13, 100, 65},
                        {8, 33, 2051}, {200, 66, 160}, {6, 600, 64},  {0, 16, 32}};
  for (WeightFormat format : kFormats) {
    for (const Case& c : cases) {
      SCOPED_TRACE(testing::Message()
                   << WeightFormatName(format) << " m " << c.m << " n " << c.n << " k " << c.k);
      const std::vector<float> w = Uneven(c.n, c.k, 1), x = Uneven(c.m, c.k, 2);
      const PackedMatrix packed = Pack(format, c.n, c.k, w);
      const std::vector<float> expected = Expected(format, x, w, c.m, c.n, c.k);
      ForEachContext([&](const KernelContext& ctx) {
        ASSERT_TRUE(SameBits(Multiply(ctx, packed, x, c.m, Rounding::kNone), expected));
        ASSERT_TRUE(
            SameBits(Multiply(ctx, packed, x, c.m, Rounding::kBf16), RoundedToBf16(expected)));
      });
    }
  }
}

// Sums at the ends of their range: what saturates in 16 bits, or in vpdpbusds, shows here.
TEST(QuantMatMul, LargestSumsAreExact) {
  const int64_t n = 18, k = 96;
  for (WeightFormat format : kFormats) {
    for (const float wsign : {1.0f, -1.0f}) {
      for (const float xsign : {1.0f, -1.0f}) {
        const std::vector<float> w(n * k, wsign * 3), x(2 * k, xsign * 5);
        const std::vector<float> expected = Expected(format, x, w, 2, n, k);
        ASSERT_NEAR(expected[0], wsign * xsign * 15 * k, 15.0 * k / 200);
        ForEachContext([&](const KernelContext& ctx) {
          ASSERT_TRUE(
              SameBits(Multiply(ctx, Pack(format, n, k, w), x, 2, Rounding::kNone), expected));
        });
      }
    }
  }
}

// All small tiles: rows 1 to 13 of panels 1 to 5, against the same rows one by one.
TEST(QuantMatMul, ARowDoesNotDependOnTheOthers) {
  const int64_t k = 333, most = 13;
  for (WeightFormat format : kFormats) {
    for (int64_t n = 16; n <= 80; n += 16) {
      const PackedMatrix w = Pack(format, n, k, Uneven(n, k, 3));
      const std::vector<float> x = Uneven(most, k, 4);
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

// Ties, the smallest group that counts, and values that are no numbers: in their own row alone.
TEST(QuantMatMul, OddInputs) {
  const int64_t n = 16, k = 64;
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x = Random(7 * k, 5);
  for (int64_t i = 0; i < k; ++i) x[i] = static_cast<float>(i % 32 - 16) + 0.5f;
  x[0] = 127;
  std::fill_n(&x[k], k, 0x1.fffffep-101f);
  std::fill_n(&x[2 * k], k, 0x1p-100f);
  std::fill_n(&x[3 * k], k, -0.0f);
  x[4 * k + 3] = inf;
  x[5 * k + 40] = -std::nanf("");
  x[6 * k + 31] = std::numeric_limits<float>::max();
  const std::vector<float> w = Random(n * k, 6);
  for (WeightFormat format : kFormats) {
    const std::vector<float> expected = Expected(format, x, w, 7, n, k);
    EXPECT_EQ(expected[n], 0);
    EXPECT_NE(expected[2 * n], 0);
    EXPECT_TRUE(std::isnan(expected[4 * n]) && std::isnan(expected[5 * n + 15]));
    ForEachContext([&](const KernelContext& ctx) {
      ASSERT_TRUE(SameBits(Multiply(ctx, Pack(format, n, k, w), x, 7, Rounding::kNone), expected));
    });
  }
}

TEST(QuantMatMul, IsNearTheProduct) {
  const int64_t m = 3, n = 48, k = 2048;
  for (WeightFormat format : kFormats) {
    const std::vector<float> w = Random(n * k, 7), x = Random(m * k, 8);
    const std::vector<float> y =
        Multiply(Context(BestIsa()), Pack(format, n, k, w), x, m, Rounding::kNone);
    for (int64_t i = 0; i < m * n; ++i) {
      double exact = 0;
      for (int64_t j = 0; j < k; ++j)
        exact += static_cast<double>(x[i / n * k + j]) * w[i % n * k + j];
      // Rounding errors of a step 1/127 (x) and 1/127 or 1/8 (w), uniform and independent, meet
      // factors of mean square 1/3: six deviations.
      const double wstep = format == WeightFormat::kQ8 ? 1.0 / 127 : 1.0 / 8;
      const double deviation = std::sqrt(k * (wstep * wstep + 1.0 / 127 / 127) / 12 / 3);
      ASSERT_NEAR(y[i], exact, 6 * deviation);
    }
  }
}

TEST(QuantMatMul, ManyJobsShareInputs) {
  const int64_t k = 100;
  const std::vector<float> x = Uneven(9, k, 9);
  std::vector<PackedMatrix> w;
  std::vector<std::vector<float>> y, expected;
  const auto rows = [](int64_t i) { return i * 5 % 10; };
  const auto first = [](int64_t i) { return i % 4 == 3 ? 1 : 0; };
  for (int64_t i = 0; i < 60; ++i) {
    const int64_t n = 1 + i * 37 % 150, m = std::min<int64_t>(rows(i), 9 - first(i));
    const WeightFormat format = static_cast<WeightFormat>(1 + i / 3 % 4);
    std::vector<float> weights = Random(n * k, 300 + i);
    if (!IsQuantized(format)) weights = RoundedToBf16(weights);
    w.push_back(Pack(format, n, k, weights));
    const std::vector<float> from(x.begin() + first(i) * k, x.end());
    if (IsQuantized(format)) {
      expected.push_back(Expected(format, from, weights, m, n, k));
    } else {
      expected.emplace_back();
      for (int64_t j = 0; j < m * n; ++j) {
        float acc = 0;
        for (int64_t l = 0; l < k; ++l)
          acc = std::fma(from[j / n * k + l], weights[j % n * k + l], acc);
        expected.back().push_back(acc);
      }
    }
  }
  ForEachContext([&](const KernelContext& ctx) {
    y.clear();
    std::vector<MatMulJob> jobs;
    for (int64_t i = 0; i < 60; ++i) {
      const int64_t n = w[i].n(), m = static_cast<int64_t>(expected[i].size()) / n;
      y.emplace_back(m * n);
      jobs.push_back(
          {.w = &w[i], .x = x.data() + first(i) * k, .ldx = k, .m = m, .y = y[i].data(), .ldy = n});
    }
    MatMul(ctx, jobs);
    for (size_t i = 0; i < w.size(); ++i) ASSERT_TRUE(SameBits(y[i], expected[i])) << "job " << i;
  });
}

TEST(QuantPacked, KeepsWhatIsRepresentable) {
  for (WeightFormat format : kFormats) {
    const bool q4 = format == WeightFormat::kQ4;
    for (int64_t k : {1, 31, 64, 200}) {
      const int64_t n = 35;
      std::vector<float> w(n * k);
      for (int64_t i = 0; i < n * k; ++i) {
        const int64_t in = i % k % 32, group = i % k / 32;
        const int v = q4 ? (in == 0 ? -8 : static_cast<int>((i * 5 + group) % 16) - 8)
                         : (in == 0 ? 127 : static_cast<int>((i * 31 + group) % 255) - 127);
        w[i] = static_cast<float>(v) * std::ldexp(1.0f + 0x1p-7f, static_cast<int>(i / k % 9) - 8);
      }
      const PackedMatrix packed = Pack(format, n, k, w);
      std::vector<float> row(k);
      for (int64_t i = 0; i < n; ++i) {
        packed.ReadRow(i, row.data());
        ASSERT_TRUE(SameBits(row, std::span(w).subspan(i * k, k)))
            << WeightFormatName(format) << " row " << i << " k " << k;
      }
    }
  }
}

TEST(QuantPacked, RoundsToTheNearestStep) {
  const int64_t n = 20, k = 130;
  const std::vector<float> w = Uneven(n, k, 11);
  for (WeightFormat format : kFormats) {
    const PackedMatrix packed = Pack(format, n, k, w);
    std::vector<float> row(k);
    for (int64_t i = 0; i < n; ++i) {
      packed.ReadRow(i, row.data());
      for (int64_t j = 0; j < k; ++j) {
        const int64_t at = j / 32 * 32;
        const float most = std::abs(Largest(&w[i * k + at], std::min<int64_t>(32, k - at)));
        // Half a step; 4 bits have one code less on the side away from the largest weight.
        const float half = most / (format == WeightFormat::kQ8 ? 127 : 8) * 0.505f;
        const float error = std::abs(row[j] - w[i * k + j]);
        if (format == WeightFormat::kQ8 || std::abs(w[i * k + j]) < most * 7.4f / 8) {
          ASSERT_LE(error, half) << i << " " << j;
        } else {
          ASSERT_LE(error, 2.01f * half) << i << " " << j;
        }
      }
    }
  }
}

TEST(QuantPacked, Sizes) {
  EXPECT_EQ(PackedMatrix::Bytes(WeightFormat::kQ8, 16, 64), 16 * 64 * 17 / 16);
  EXPECT_EQ(PackedMatrix::Bytes(WeightFormat::kQ4, 2048, 7168), 2048 * 7168 * 9 / 16);
  EXPECT_EQ(PackedMatrix(WeightFormat::kQ4, 33, 40).bytes(), 3 * (64 + 2 * 256));
  EXPECT_STREQ(WeightFormatName(WeightFormat::kQ8), "q8");
  EXPECT_STREQ(WeightFormatName(WeightFormat::kQ4), "q4");
}

struct Expert {
  std::vector<float> gate, up, down;
  FfnWeights packed;
};

// ffn.h with quantised weights: h is quantised again for down.
TEST(QuantFfn, HasTheBitsOfItsDefinition) {
  const int64_t d = 72, num_rows = 17;
  const std::vector<float> x = Uneven(num_rows, d, 99);
  for (WeightFormat format : kFormats) {
    std::vector<Expert> experts;
    std::vector<std::vector<int32_t>> rows;
    std::vector<std::vector<float>> expected;
    for (int64_t j = 0; j < 5; ++j) {
      const int64_t f = 24 + 29 * j;
      Expert e = {.gate = Random(f * d, 10 * j),
                  .up = Random(f * d, 10 * j + 1),
                  .down = Random(d * f, 10 * j + 2)};
      e.packed.gate = Pack(format, f, d, e.gate);
      e.packed.up = Pack(format, f, d, e.up);
      e.packed.down = Pack(format, d, f, e.down);
      rows.emplace_back();
      std::vector<float> gathered;
      for (int64_t i = 0; i < 3 * j; ++i) {
        rows[j].push_back(static_cast<int32_t>((7 * i + j) % num_rows));
        gathered.insert(gathered.end(), &x[rows[j][i] * d], &x[rows[j][i] * d] + d);
      }
      const int64_t m = static_cast<int64_t>(rows[j].size());
      const std::vector<float> gate = Expected(format, gathered, e.gate, m, f, d);
      std::vector<float> h = Expected(format, gathered, e.up, m, f, d);
      for (int64_t i = 0; i < m * f; ++i) h[i] = gate[i] * Sigmoid(gate[i]) * h[i];
      expected.push_back(RoundedToBf16(Expected(format, h, e.down, m, d, f)));
      experts.push_back(std::move(e));
    }
    ForEachContext([&](const KernelContext& ctx) {
      std::vector<FfnJob> jobs;
      std::vector<std::vector<float>> out;
      for (size_t j = 0; j < experts.size(); ++j) {
        out.emplace_back(rows[j].size() * d);
        jobs.push_back({.w = &experts[j].packed,
                        .x = x.data(),
                        .ldx = d,
                        .row = rows[j].data(),
                        .m = static_cast<int64_t>(rows[j].size()),
                        .out = out[j].data(),
                        .ldo = d});
      }
      std::vector<float> scratch(GroupedFfnScratch(jobs));
      GroupedFfn(ctx, jobs, Rounding::kNone, Rounding::kBf16, scratch.data());
      for (size_t j = 0; j < experts.size(); ++j)
        ASSERT_TRUE(SameBits(out[j], expected[j])) << "job " << j;
    });
  }
}

}  // namespace
}  // namespace atl::kernels
