// From float32 to stored elements, rounded to nearest even.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace atl::model {

uint16_t F32ToF16(float value);    // overflows to infinity, as IEEE 754 does
uint8_t F32ToF8E4M3(float value);  // saturates at 448; NaN stays NaN

// Stores `count` values as little-endian elements of `dtype` at `out` (any alignment).
void NarrowFromF32(DType dtype, const float* values, int64_t count, std::byte* out);

inline constexpr float kF8E4M3Max = 448;

}  // namespace atl::model
