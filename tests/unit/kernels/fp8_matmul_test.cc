// Products with FP8 blocks (packed_matrix.h, matmul.h) against their definition: the codes decoded
// by arithmetic, scaled, and one chain of fma.
#include <cmath>

#include "kernels/exact_math.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

// (-1)^s 2^(e-7) (1 + m/8), subnormals 2^-6 m/8. Source: "FP8 Formats for Deep Learning" (arXiv
// 2209.05433), table 1.
float Value(uint8_t code) {
  const int e = code >> 3 & 15, m = code & 7;
  const double value = e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10);
  return static_cast<float>((code & 0x80) != 0 ? -value : value);
}

struct Blocks {
  int64_t n = 0, k = 0;
  std::vector<uint8_t> codes;
  std::vector<float> scale;  // [ceil(n / 128), ceil(k / 128)]
  std::vector<float> w;      // [n, k]: what they mean
  PackedMatrix packed;
};

Blocks Make(int64_t n, int64_t k, std::vector<uint8_t> codes, std::vector<float> scale) {
  Blocks b = {.n = n, .k = k, .codes = std::move(codes), .scale = std::move(scale)};
  const int64_t columns = (k + 127) / 128;
  for (int64_t i = 0; i < n * k; ++i)
    b.w.push_back(Value(b.codes[i]) * b.scale[i / k / 128 * columns + i % k / 128]);
  b.packed = PackedMatrix(WeightFormat::kFp8, n, k);
  for (int64_t i = 0; i < b.packed.num_panels(); ++i)
    b.packed.FillFp8Panel(i, &b.codes[i * 16 * k], &b.scale[i * 16 / 128 * columns]);
  return b;
}

// Every code but NaN, scales of all sizes.
Blocks RandomBlocks(int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<uint8_t> codes(n * k);
  for (uint8_t& code : codes) {
    do code = static_cast<uint8_t>(generator() >> 9);
    while ((code & 0x7f) == 0x7f);
  }
  std::vector<float> scale = Random((n + 127) / 128 * ((k + 127) / 128), seed + 1);
  for (size_t i = 0; i < scale.size(); ++i)
    scale[i] = std::ldexp(scale[i], static_cast<int>(i % 5) * 3 - 10);
  return Make(n, k, std::move(codes), std::move(scale));
}

std::vector<float> Expected(const Blocks& b, std::span<const float> x) {
  std::vector<float> y;
  for (size_t row = 0; row < x.size() / b.k; ++row) {
    for (int64_t j = 0; j < b.n; ++j) {
      float acc = 0;
      for (int64_t i = 0; i < b.k; ++i) acc = std::fma(x[row * b.k + i], b.w[j * b.k + i], acc);
      y.push_back(acc);
    }
  }
  return y;
}

// With leads beyond K and N, checking that nothing behind a row is read or written.
std::vector<float> Multiply(const KernelContext& ctx, const PackedMatrix& w,
                            std::span<const float> x, Rounding rounding) {
  const int64_t m = static_cast<int64_t>(x.size()) / w.k(), ldx = w.k() + 3, ldy = w.n() + 3;
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

TEST(Fp8MatMul, EveryOutputIsOneChainOverTheDecodedWeights) {
  struct Case {
    int64_t m, n, k;
  };
  const Case cases[] = {{1, 16, 128},  {1, 40, 64},    {2, 16, 96},   {3, 64, 1},   {1, 70, 2},
                        {4, 70, 33},   {5, 8, 131},    {7, 136, 608}, {1, 600, 64}, {13, 100, 258},
                        {3, 33, 2051}, {200, 66, 160}, {9, 300, 300}, {0, 16, 32}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << "m " << c.m << " n " << c.n << " k " << c.k);
    const Blocks b = RandomBlocks(c.n, c.k, 1);
    const std::vector<float> x = Random(c.m * c.k, 2), expected = Expected(b, x);
    ForEachContext([&](const KernelContext& ctx) {
      ASSERT_TRUE(SameBits(Multiply(ctx, b.packed, x, Rounding::kNone), expected));
      ASSERT_TRUE(SameBits(Multiply(ctx, b.packed, x, Rounding::kBf16), RoundedToBf16(expected)));
    });
  }
}

// Every code at every place of a line of 4 x 16, for one row and for many: a row of x that is 1 at
// one k gives the weights of that k.
TEST(Fp8MatMul, EveryCodeEverywhere) {
  const int64_t n = 64, k = 256;
  std::vector<uint8_t> codes(n * k);
  for (int64_t i = 0; i < n * k; ++i) {
    codes[i] = static_cast<uint8_t>(i / k * 5 + i % k);
    if ((codes[i] & 0x7f) == 0x7f) codes[i] ^= 1;
  }
  const Blocks b = Make(n, k, std::move(codes), {0.75f, -0x1.fffffep7f});
  std::vector<float> ones(k * k);
  for (int64_t i = 0; i < k; ++i) ones[i * k + i] = 1;
  for (const Isa isa : SupportedIsas()) {
    const KernelContext ctx = Context(isa);
    const std::vector<float> many = Multiply(ctx, b.packed, ones, Rounding::kNone);
    for (int64_t i = 0; i < k; ++i) {
      const std::vector<float> one =
          Multiply(ctx, b.packed, std::span(ones).subspan(i * k, k), Rounding::kNone);
      for (int64_t j = 0; j < n; ++j) {
        ASSERT_EQ(many[i * n + j], b.w[j * k + i]) << IsaName(isa) << " " << j << " " << i;
        ASSERT_EQ(one[j], b.w[j * k + i]) << IsaName(isa) << " " << j << " " << i;
      }
    }
  }
}

// Scales under which weights are subnormal in float32, or none at all.
TEST(Fp8MatMul, SmallestScales) {
  const int64_t n = 16, k = 512;
  Blocks b = RandomBlocks(n, k, 7);
  b = Make(n, k, b.codes, {0x1p-126f, 0x1.234p-133f, 0x1p-149f, 0});
  std::vector<float> x = Random(5 * k, 8, 0x1p60f);
  const std::vector<float> expected = Expected(b, x);
  EXPECT_NE(expected[0], 0);
  ForEachContext([&](const KernelContext& ctx) {
    ASSERT_TRUE(SameBits(Multiply(ctx, b.packed, x, Rounding::kNone), expected));
    ASSERT_TRUE(SameBits(Multiply(ctx, b.packed, std::span(x).first(k), Rounding::kNone),
                         std::span(expected).first(n)));
  });
}

// All small tiles: rows 1 to 13 of panels 1 to 5, against the same rows one by one.
TEST(Fp8MatMul, ARowDoesNotDependOnTheOthers) {
  const int64_t k = 333, most = 13;
  for (int64_t n = 16; n <= 80; n += 16) {
    const Blocks b = RandomBlocks(n, k, 3);
    const std::vector<float> x = Random(most * k, 4);
    for (const Isa isa : SupportedIsas()) {
      const KernelContext ctx = Context(isa);
      std::vector<float> alone;
      for (int64_t i = 0; i < most; ++i) {
        const std::vector<float> y =
            Multiply(ctx, b.packed, std::span(x).subspan(i * k, k), Rounding::kNone);
        alone.insert(alone.end(), y.begin(), y.end());
      }
      for (int64_t m = 1; m <= most; ++m) {
        ASSERT_TRUE(SameBits(Multiply(ctx, b.packed, std::span(x).first(m * k), Rounding::kNone),
                             std::span(alone).first(m * n)))
            << IsaName(isa) << " n " << n << " m " << m;
      }
    }
  }
}

TEST(Fp8MatMul, BesideOtherFormatsInOneCall) {
  const int64_t k = 100, n = 50, m = 3;
  const std::vector<float> x = Random(m * k, 9), plain = Random(n * k, 10);
  const Blocks b = RandomBlocks(n, k, 11);
  PackedMatrix q8(WeightFormat::kQ8, n, k), f32(WeightFormat::kF32, n, k);
  for (int64_t i = 0; i < q8.num_panels(); ++i) {
    q8.FillPanel(i, &plain[i * 16 * k]);
    f32.FillPanel(i, &plain[i * 16 * k]);
  }
  ForEachContext([&](const KernelContext& ctx) {
    std::vector<std::vector<float>> y(3, std::vector<float>(m * n)), alone = y;
    std::vector<MatMulJob> jobs;
    const PackedMatrix* w[] = {&q8, &b.packed, &f32};
    for (int64_t i = 0; i < 3; ++i)
      jobs.push_back({.w = w[i], .x = x.data(), .ldx = k, .m = m, .y = y[i].data(), .ldy = n});
    MatMul(ctx, jobs);
    for (int64_t i = 0; i < 3; ++i) {
      jobs[i].y = alone[i].data();
      MatMul(ctx, jobs[i]);
      ASSERT_TRUE(SameBits(y[i], alone[i])) << i;
    }
    ASSERT_TRUE(SameBits(y[1], Expected(b, x)));
  });
}

TEST(Fp8Packed, ReadRowGivesBackWhatTheCodesMean) {
  for (const int64_t k : {1, 43, 128, 2180}) {
    const Blocks b = RandomBlocks(300, k, 12);
    std::vector<float> row(k);
    for (int64_t i = 0; i < b.n; ++i) {
      b.packed.ReadRow(i, row.data());
      ASSERT_TRUE(SameBits(row, std::span(b.w).subspan(i * k, k))) << "row " << i << " k " << k;
    }
  }
}

TEST(Fp8Packed, Sizes) {
  // 16 scales of 4 bytes are a line of 64.
  EXPECT_EQ(PackedMatrix::Bytes(WeightFormat::kFp8, 16, 2048), 16 * 2048 + 64);
  EXPECT_EQ(PackedMatrix::Bytes(WeightFormat::kFp8, 32, 7168), 2 * (16 * 7168 + 256));
  EXPECT_EQ(PackedMatrix(WeightFormat::kFp8, 33, 42).bytes(), 3 * (64 + 11 * 64));
  EXPECT_STREQ(WeightFormatName(WeightFormat::kFp8), "fp8");
  EXPECT_FALSE(IsQuantized(WeightFormat::kFp8)) << "its inputs are floats";
}

// ffn.h: gate and up beside each other, and rows picked from among others.
TEST(Fp8Ffn, HasTheBitsOfItsDefinition) {
  const int64_t d = 200, num_rows = 17;
  const std::vector<float> x = RoundedToBf16(Random(num_rows * d, 99, 0.05f));
  std::vector<FfnWeights> experts;
  std::vector<std::vector<int32_t>> rows;
  std::vector<std::vector<float>> expected;
  for (int64_t j = 0; j < 5; ++j) {
    const int64_t f = 24 + 29 * j;
    Blocks gate = RandomBlocks(f, d, 10 * j), up = RandomBlocks(f, d, 10 * j + 1),
           down = RandomBlocks(d, f, 10 * j + 2);
    rows.emplace_back();
    std::vector<float> gathered;
    for (int64_t i = 0; i < 3 * j; ++i) {
      rows[j].push_back(static_cast<int32_t>((7 * i + j) % num_rows));
      gathered.insert(gathered.end(), &x[rows[j][i] * d], &x[rows[j][i] * d] + d);
    }
    const std::vector<float> a = Expected(gate, gathered);
    std::vector<float> h = Expected(up, gathered);
    for (size_t i = 0; i < h.size(); ++i) h[i] = RoundToBf16(a[i] * Sigmoid(a[i]) * h[i]);
    expected.push_back(RoundedToBf16(Expected(down, h)));
    experts.emplace_back();
    experts[j].gate = std::move(gate.packed);
    experts[j].up = std::move(up.packed);
    experts[j].down = std::move(down.packed);
  }
  ForEachContext([&](const KernelContext& ctx) {
    std::vector<FfnJob> jobs;
    std::vector<std::vector<float>> out;
    for (size_t j = 0; j < experts.size(); ++j) {
      out.emplace_back(rows[j].size() * d);
      jobs.push_back({.w = &experts[j],
                      .x = x.data(),
                      .ldx = d,
                      .row = rows[j].data(),
                      .m = static_cast<int64_t>(rows[j].size()),
                      .out = out[j].data(),
                      .ldo = d});
    }
    std::vector<float> scratch(GroupedFfnScratch(jobs));
    GroupedFfn(ctx, jobs, Rounding::kBf16, Rounding::kBf16, scratch.data());
    for (size_t j = 0; j < experts.size(); ++j)
      ASSERT_TRUE(SameBits(out[j], expected[j])) << "job " << j;
  });
}

}  // namespace
}  // namespace atl::kernels
