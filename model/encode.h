// From float32 to stored elements, rounded to nearest even.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace atl::model {

uint16_t F32ToF16(float value);  // overflows to infinity, as IEEE 754 does

// Stores `count` values as little-endian elements of `dtype` at `out` (any alignment).
void NarrowFromF32(DType dtype, const float* values, int64_t count, std::byte* out);

}  // namespace atl::model
