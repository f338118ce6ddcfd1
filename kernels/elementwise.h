// Row-wise pieces of the forward pass. Each row's result depends on that row alone; same bits on
// every Isa.
#pragma once

#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "kernels/context.h"

namespace atl::kernels {

// y[t] = round(x[t] * rsqrt(mean(x[t]^2) + eps) * weight), rsqrt as 1 / sqrt, both correctly
// rounded, products from the left. The sum of squares runs over 16 lanes (lane i: fma over k = i, i
// + 16, ...), then lanes i and i+8, i+4, i+2, i+1 are added.
//   x [rows, n] ldx apart, weight [n], y [rows, n] ldy apart; y may be x.
void RmsNorm(const KernelContext& ctx, const float* x, int64_t ldx, const float* weight, float eps,
             int64_t rows, int64_t n, float* y, int64_t ldy, Rounding rounding);

// x[i] += y[i].
void AddInPlace(const KernelContext& ctx, float* x, const float* y, int64_t n);

// Conversions over whole ranges. F32ToBf16Range rounds to nearest even.
void F32ToBf16Range(const KernelContext& ctx, const float* x, int64_t n, Bf16* y);
void Bf16ToF32Range(const KernelContext& ctx, const Bf16* x, int64_t n, float* y);
// In place: rounds every element to `rounding`.
void RoundRange(const KernelContext& ctx, float* x, int64_t n, Rounding rounding);

}  // namespace atl::kernels
