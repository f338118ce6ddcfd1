// Feed-forward of experts and dense layers: down(silu(gate x) * up x), for many (weights, rows) at
// once.
#pragma once

#include <span>

#include "kernels/matmul.h"

namespace atl::kernels {

struct FfnWeights {
  FfnWeights() = default;
  // To be filled; the three lie in one piece of memory.
  FfnWeights(WeightFormat format, int64_t hidden_size, int64_t intermediate_size);

  PackedMatrix gate;  // [F, D]
  PackedMatrix up;    // [F, D], of gate's format
  PackedMatrix down;  // [D, F], of any
};

struct FfnJob {
  const FfnWeights* w = nullptr;
  const float* x = nullptr;  // rows of D floats, ldx apart
  int64_t ldx = 0;
  const int32_t* row =
      nullptr;  // [m] which row of x each of the job's rows is; null: 0, 1, ..., m-1
  int64_t m = 0;
  float* out = nullptr;  // [m, D], ldo apart
  int64_t ldo = 0;
};

// Floats of scratch that GroupedFfn needs for `jobs`.
int64_t GroupedFfnScratch(std::span<const FfnJob> jobs);

// All jobs as one list over the pool's threads: gate and up in one pass with SwiGLU fused, then
// down. h = act(silu(gate x) * (up x)); out = round(down h). silu(a) = a * Sigmoid(a)
// (kernels/exact_math.h).
//   act: rounding of h to the profile's activation type; a quantised `down` takes h to int8 itself.
//   round: rounding of out to the wire type.
// Bits: as matmul.h says; a row's result does not depend on the other rows or jobs.
void GroupedFfn(const KernelContext& ctx, std::span<const FfnJob> jobs, Rounding act,
                Rounding round, float* scratch);

}  // namespace atl::kernels
