#include "kernels/rope.h"

#include <cmath>

#include "kernels_testing.h"

namespace atl::kernels {
namespace {

// YaRN as in arXiv 2309.00071 and DeepSeek-V3's inference/model.py, in long double, with libm.
struct Published {
  std::vector<long double> inverse_frequency;
  long double cos_factor = 1, softmax_factor = 1;
};

long double CorrectionDim(long double rotations, int64_t dim, long double theta,
                          long double max_position) {
  return dim * std::log(max_position / (rotations * 2 * M_PIl)) / (2 * std::log(theta));
}

Published Compute(int64_t dim, double theta, const std::optional<YarnParams>& yarn) {
  Published p;
  for (int64_t i = 0; i < dim; i += 2) {
    p.inverse_frequency.push_back(
        1 / std::pow(static_cast<long double>(theta), static_cast<long double>(i) / dim));
  }
  if (!yarn) return p;
  const int64_t max_position = yarn->original_max_position_embeddings;
  long double low =
      std::max(std::floor(CorrectionDim(yarn->beta_fast, dim, theta, max_position)), 0.0L);
  long double high =
      std::min(std::ceil(CorrectionDim(yarn->beta_slow, dim, theta, max_position)), dim - 1.0L);
  if (low == high) high += 0.001L;
  for (int64_t i = 0; i < dim / 2; ++i) {
    const long double smooth = 1 - std::min(std::max((i - low) / (high - low), 0.0L), 1.0L);
    long double& f = p.inverse_frequency[i];
    f = f / yarn->factor * (1 - smooth) + f * smooth;
  }
  auto mscale = [&](long double m) {
    return yarn->factor <= 1 ? 1.0L
                             : 0.1L * m * std::log(static_cast<long double>(yarn->factor)) + 1;
  };
  p.cos_factor = mscale(yarn->mscale) / mscale(yarn->mscale_all_dim);
  if (yarn->mscale_all_dim != 0)
    p.softmax_factor = mscale(yarn->mscale_all_dim) * mscale(yarn->mscale_all_dim);
  return p;
}

// Positions reach 163840, angles as much: an inverse frequency off by 2^-50 turns them by 1.5e-10;
// float32 has 6e-8.
void ExpectTable(int64_t dim, double theta, const std::optional<YarnParams>& yarn,
                 int64_t positions) {
  const Published p = Compute(dim, theta, yarn);
  const RopeTable table(dim, theta, yarn, positions);
  ASSERT_EQ(table.dim(), dim);
  ASSERT_EQ(table.max_positions(), positions);
  for (int64_t t = 0; t < positions; t += t < 100 ? 1 : 611) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      const long double angle = t * p.inverse_frequency[i];
      ASSERT_NEAR(table.cos(t)[i], static_cast<double>(std::cos(angle) * p.cos_factor),
                  6.1e-8 * p.cos_factor)
          << t << " " << i;
      ASSERT_NEAR(table.sin(t)[i], static_cast<double>(std::sin(angle) * p.cos_factor),
                  6.1e-8 * p.cos_factor)
          << t << " " << i;
    }
  }
  EXPECT_NEAR(YarnSoftmaxFactor(yarn), static_cast<double>(p.softmax_factor), 2e-7);
}

TEST(Rope, PlainTable) {
  ExpectTable(64, 10000, std::nullopt, 5000);
  ExpectTable(8, 50000, std::nullopt, 9000);
}

TEST(Rope, YarnTables) {
  const YarnParams v3 = {.factor = 40, .mscale = 1.0, .mscale_all_dim = 1.0};
  ExpectTable(64, 10000, v3, 163840);
  const YarnParams v2_lite = {.factor = 40, .mscale = 0.707, .mscale_all_dim = 0.707};
  ExpectTable(64, 10000, v2_lite, 20000);
  const YarnParams kimi = {
      .factor = 32, .beta_fast = 1, .beta_slow = 1, .mscale = 1, .mscale_all_dim = 1};
  ExpectTable(64, 50000, kimi, 20000);
  const YarnParams unequal = {
      .factor = 8, .mscale = 1, .mscale_all_dim = 0, .original_max_position_embeddings = 128};
  ExpectTable(16, 10000, unequal, 2000);
  const YarnParams short_context = {
      .factor = 4, .mscale = 0.5, .mscale_all_dim = 0.8, .original_max_position_embeddings = 32};
  ExpectTable(8, 10000, short_context, 500);
}

TEST(Rope, YarnMovesTheTableAndEqualBetasDoNotDivideByZero) {
  const YarnParams equal = {
      .factor = 32, .beta_fast = 2000, .beta_slow = 2000, .original_max_position_embeddings = 4096};
  const RopeTable plain(8, 10000, std::nullopt, 100), yarn(8, 10000, equal, 100);
  int moved = 0;
  for (int64_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(std::isfinite(yarn.cos(99)[i]));
    moved += plain.cos(99)[i] != yarn.cos(99)[i];
  }
  EXPECT_GT(moved, 0);
}

TEST(Rope, SoftmaxFactor) {
  EXPECT_EQ(YarnSoftmaxFactor(std::nullopt), 1.0f);
  EXPECT_EQ(YarnSoftmaxFactor(YarnParams{.factor = 40, .mscale = 1, .mscale_all_dim = 0}), 1.0f);
  EXPECT_NEAR(YarnSoftmaxFactor(YarnParams{.factor = 40, .mscale = 1, .mscale_all_dim = 1}),
              1.8738542, 1e-6);  // (0.1 ln 40 + 1)^2
}

TEST(Rope, AppliesToAdjacentPairsAtEachRowsPosition) {
  const int64_t dim = 24, vectors = 3, rows = 5, stride = dim + 4,
                row_stride = vectors * stride + 7;
  const RopeTable table(dim, 10000, std::nullopt, 200);
  const int32_t position[rows] = {0, 199, 3, 3, 64};
  const std::vector<float> x = Random(rows * row_stride, 1);
  ForEachContext([&](const KernelContext& ctx) {
    for (Rounding rounding : {Rounding::kNone, Rounding::kBf16}) {
      std::vector<float> expected = x, y = x;
      for (int64_t t = 0; t < rows; ++t) {
        const float *cos = table.cos(position[t]), *sin = table.sin(position[t]);
        for (int64_t v = 0; v < vectors; ++v) {
          for (int64_t i = 0; i < dim / 2; ++i) {
            const int64_t at = t * row_stride + v * stride + 2 * i;
            const float a = x[at], b = x[at + 1];
            expected[at] = std::fma(a, cos[i], -(b * sin[i]));
            expected[at + 1] = std::fma(a, sin[i], b * cos[i]);
            if (rounding == Rounding::kBf16) {
              expected[at] = RoundToBf16(expected[at]);
              expected[at + 1] = RoundToBf16(expected[at + 1]);
            }
          }
        }
      }
      ApplyRope(ctx, table, position, rows, vectors, y.data(), row_stride, stride, rounding);
      ASSERT_TRUE(SameBits(y, expected));
    }
  });
}

TEST(Rope, ScoresDependOnTheDistanceAlone) {
  const int64_t dim = 64;
  const RopeTable table(dim, 10000, std::nullopt, 5000);
  const std::vector<float> q = Random(dim, 2), k = Random(dim, 3);
  auto score = [&](int32_t q_position, int32_t k_position) {
    std::vector<float> a = q, b = k;
    const KernelContext ctx = Context(BestIsa());
    ApplyRope(ctx, table, &q_position, 1, 1, a.data(), dim, dim, Rounding::kNone);
    ApplyRope(ctx, table, &k_position, 1, 1, b.data(), dim, dim, Rounding::kNone);
    double sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
  };
  EXPECT_NEAR(score(100, 60), score(4040, 4000), 2e-5);
  EXPECT_GT(std::abs(score(100, 60) - score(100, 61)), 1e-3);
}

}  // namespace
}  // namespace atl::kernels
