// Panels of kQ8 and kQ4 (packed_matrix.h; their layout: cpu/table.h). Private to kernels/.
#pragma once

#include <cstddef>
#include <cstdint>

namespace atl::kernels {

int64_t QuantPanelBytes(bool q4, int64_t k);
// `num` <= 16 rows of K floats; outputs from `num` on become zeros.
void FillQuantPanel(bool q4, const float* rows, int64_t num, int64_t k, std::byte* panel);
void ReadQuantRow(bool q4, const std::byte* panel, int64_t lane, int64_t k, float* out);

}  // namespace atl::kernels
