// Reductions over a row of logits [V]. Same bits on every Isa; a row at a time.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"

namespace atl::kernels {

struct TopEntry {
  int32_t id = 0;
  float value = 0;
};

// Index of the largest value, the lowest one of equals. NaN never wins; REQUIRES v > 0.
int32_t ArgMax(const KernelContext& ctx, const float* x, int64_t v);

// log(sum(exp(x))): max first, then sum of Exp(x - max) over 16 lanes (lane i takes i, i + 16, ...;
// lanes added i+8, i+4, i+2, i+1), then max + Log(sum).
float LogSumExp(const KernelContext& ctx, const float* x, int64_t v);

// y[i] = Exp(x[i] - max); returns the sum in the same order as LogSumExp.
float ExpSum(const KernelContext& ctx, const float* x, int64_t v, float max, float* y);

// The `top.size()` largest, descending; equal values by ascending id. REQUIRES top.size() <= v.
void TopN(const KernelContext& ctx, const float* x, int64_t v, std::span<TopEntry> top);

}  // namespace atl::kernels
