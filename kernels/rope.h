// Rotary position embedding, with YaRN. Source: DeepSeek-V3 inference/model.py
// `precompute_freqs_cis`, `apply_rotary_emb`; YaRN: arXiv 2309.00071.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/context.h"

namespace atl::kernels {

struct YarnParams {
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
  int64_t original_max_position_embeddings = 4096;
};

// cos and sin of every position below `max_positions`, computed in float64 (exact_math.h), rounded
// to float32. Constant after construction: any thread may read.
class RopeTable {
 public:
  // dim: qk_rope_head_dim, even. YaRN applies at every position whenever it is set. cos and sin
  // carry the factor yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim).
  RopeTable(int64_t dim, double theta, const std::optional<YarnParams>& yarn,
            int64_t max_positions);

  int64_t dim() const { return dim_; }
  int64_t max_positions() const { return max_positions_; }
  const float* cos(int64_t position) const {
    return cos_.data() + position * dim_ / 2;
  }  // [dim / 2]
  const float* sin(int64_t position) const { return sin_.data() + position * dim_ / 2; }

 private:
  int64_t dim_ = 0;
  int64_t max_positions_ = 0;
  std::vector<float> cos_;
  std::vector<float> sin_;
};

// What the softmax scale is multiplied by: yarn_mscale(factor, mscale_all_dim)^2 if mscale_all_dim,
// else 1.
float YarnSoftmaxFactor(const std::optional<YarnParams>& yarn);

// Turns adjacent pairs (x0, x1), (x2, x3), ... in place by the row's position:
//   a' = a cos - b sin, b' = a sin + b cos, each as fma(a, cos, -(b * sin)) and fma(a, sin, b *
//   cos). x: for each of `rows` rows, `vectors` vectors of dim floats, vector_stride apart; rows
//   row_stride apart.
void ApplyRope(const KernelContext& ctx, const RopeTable& table, const int32_t* position,
               int64_t rows, int64_t vectors, float* x, int64_t row_stride, int64_t vector_stride,
               Rounding rounding);

}  // namespace atl::kernels
