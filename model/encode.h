// From float32 to stored elements, rounded to nearest even.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"

namespace atl::model {

uint16_t F32ToF16(float value);  // overflows to infinity, as IEEE 754 does

// Stores `count` values as little-endian elements of `dtype` at `out` (any alignment).
void NarrowFromF32(DType dtype, const float* values, int64_t count, std::byte* out);

// FP8 blocks of a row of blocks, as DeepSeek's quantisation has it: values [rows, columns] are
// divided in place by the scale of their block of `block` columns (and all rows), the block's
// largest magnitude / 448, 1 if that is 0. NarrowFromF32 of what is left gives the codes. Returns
// the scales.
std::vector<float> ScaleBlocks(std::span<float> values, int64_t columns, int64_t block);

}  // namespace atl::model
