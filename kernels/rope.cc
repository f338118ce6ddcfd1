#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/cpu/table.h"
#include "kernels/exact_math.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

constexpr double kPi = 3.14159265358979323846;

double YarnMscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * Log64(factor) + 1.0;
}

// The (real) index of the dimension that turns `rotations` times within the original context.
double TurnDim(double rotations, int64_t dim, double theta, const YarnParams& yarn) {
  return dim * Log64(yarn.original_max_position_embeddings / (rotations * 2 * kPi)) /
         (2 * Log64(theta));
}

// theta^(-2i / dim); with YaRN, blended from frequency kept (fast) to divided by `factor` (slow).
std::vector<double> InverseFrequencies(int64_t dim, double theta,
                                       const std::optional<YarnParams>& yarn) {
  std::vector<double> inv(dim / 2);
  const double log_theta = Log64(theta);
  for (int64_t i = 0; i < dim / 2; ++i)
    inv[i] = 1.0 / Exp64(static_cast<double>(2 * i) / dim * log_theta);
  if (!yarn) return inv;
  const double low = std::max(std::floor(TurnDim(yarn->beta_fast, dim, theta, *yarn)), 0.0);
  double high = std::min(std::ceil(TurnDim(yarn->beta_slow, dim, theta, *yarn)),
                         static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < dim / 2; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv[i] = inv[i] / yarn->factor * ramp + inv[i] * (1 - ramp);
  }
  return inv;
}

}  // namespace

RopeTable::RopeTable(int64_t dim, double theta, const std::optional<YarnParams>& yarn,
                     int64_t max_positions)
    : dim_(dim),
      max_positions_(max_positions),
      cos_(max_positions * dim / 2),
      sin_(max_positions * dim / 2) {
  const std::vector<double> inv = InverseFrequencies(dim, theta, yarn);
  const double factor =
      yarn ? YarnMscale(yarn->factor, yarn->mscale) / YarnMscale(yarn->factor, yarn->mscale_all_dim)
           : 1.0;
  for (int64_t position = 0; position < max_positions; ++position) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      double sin, cos;
      SinCos64(static_cast<double>(position) * inv[i], &sin, &cos);
      cos_[position * dim / 2 + i] = static_cast<float>(cos * factor);
      sin_[position * dim / 2 + i] = static_cast<float>(sin * factor);
    }
  }
}

float YarnSoftmaxFactor(const std::optional<YarnParams>& yarn) {
  if (!yarn || yarn->mscale_all_dim == 0) return 1;
  const double mscale = YarnMscale(yarn->factor, yarn->mscale_all_dim);
  return static_cast<float>(mscale * mscale);
}

void ApplyRope(const KernelContext& ctx, const RopeTable& table, const int32_t* position,
               int64_t rows, int64_t vectors, float* x, int64_t row_stride, int64_t vector_stride,
               Rounding rounding) {
  ForRows(ctx, rows, vectors * table.dim(), [&](int64_t t) {
    ATL_DCHECK(position[t] >= 0 && position[t] < table.max_positions());
    ctx.table->rope(table.cos(position[t]), table.sin(position[t]), table.dim() / 2, vectors,
                    x + t * row_stride, vector_stride, rounding == Rounding::kBf16);
  });
}

}  // namespace atl::kernels
