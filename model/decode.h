// From stored elements to float32, exactly.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace atl::model {

// Widens `count` little-endian elements of `dtype` at `raw` (any alignment) to out. Every value of
// every dtype has an equal float32; NaN and infinity come out as such.
void WidenToF32(DType dtype, const std::byte* raw, int64_t count, float* out);

// The place of the first NaN or infinity among `count` values, or -1.
int64_t FindNonFinite(const float* values, int64_t count);

// row[k] *= scale[k / block] for k < columns, each product rounded once to float32.
void ScaleRow(float* row, int64_t columns, const float* scale, int64_t block);

}  // namespace atl::model
