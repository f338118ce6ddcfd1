// Softmax states in one piece of memory: m, l, then o. Private to kernels/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/table.h"

namespace atl::kernels {

// Floats of a state of `lanes` heads or rows with sums of `ldo`.
inline int64_t StateFloats(int64_t lanes, int64_t ldo) {
  return 2 * RoundUp16(lanes) + lanes * ldo;
}

inline SoftmaxState StateAt(float* base, int64_t lanes, int64_t ldo) {
  const int64_t padded = RoundUp16(lanes);
  return {.m = base, .l = base + padded, .o = base + 2 * padded, .ldo = ldo};
}

// m and l before the first key; `lanes` is a multiple of 16.
inline void BeginState(const SoftmaxState& state, int64_t lanes) {
  std::fill_n(state.m, lanes, -std::numeric_limits<float>::infinity());
  std::fill_n(state.l, lanes, 0.0f);
}

}  // namespace atl::kernels
