// y = x W^T with W packed once: the workhorse. Shapes are the caller's promise (checked in debug
// builds).
//
// Bits, float weights: y[m, n] is one chain acc = fma(x[m, k], w[n, k], acc) over k = 0, 1, ...,
// K-1 from acc = 0, in float32. kFp8 weights are float weights: w is v * scale, rounded to float32.
//
// Bits, quantised weights: inputs become int8, a scale for each row and each 32 values of K:
//   sx = max |x| / 127, q = x * (127 / max |x|) rounded to nearest, ties to even; each operation in
//   float32. A maximum under 2^-100 counts as 0: sx = 0, q = 0. A group with NaN or infinity has sx
//   = NaN, so its row's products are NaN.
// y[m, n] is one chain acc = fma(float(dot), sx * sw, acc) over the groups of K, ascending, from
// acc = 0: dot is the exact integer sum of q * v over the group, v and sw are the weights' integers
// and scale (packed_matrix.h); the product sx * sw is rounded to float32.
//
// Neither depends on M, on the other rows, on the tile, on threads or on the instruction set.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/packed_matrix.h"

namespace atl::kernels {

// One product: y [m, N] = x [m, K] W^T. With float weights x has been rounded to the profile's
// activation type before; quantised weights take it as it is.
struct MatMulJob {
  const PackedMatrix* w = nullptr;
  const float* x = nullptr;
  int64_t ldx = 0;  // elements from one row of x to the next
  int64_t m = 0;
  float* y = nullptr;
  int64_t ldy = 0;
  Rounding rounding = Rounding::kNone;  // applied to y
};

// Runs all jobs as one parallel loop over (job, panels), after another over the rows to quantise,
// where there are any: neighbouring jobs with the same x share them. Outputs may not overlap inputs
// or each other.
void MatMul(const KernelContext& ctx, std::span<const MatMulJob> jobs);
inline void MatMul(const KernelContext& ctx, const MatMulJob& job) {
  MatMul(ctx, std::span(&job, 1));
}

}  // namespace atl::kernels
