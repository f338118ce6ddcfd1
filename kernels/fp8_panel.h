// Panels of kFp8 (packed_matrix.h; their layout: cpu/table.h). Private to kernels/.
#pragma once

#include <cstddef>
#include <cstdint>

namespace atl::kernels {

// `num` <= 16 rows of K codes and ceil(K / 128) scales; outputs from `num` on become zeros.
void PackFp8Panel(const uint8_t* codes, const float* scale, int64_t num, int64_t k,
                  std::byte* panel);
void ReadFp8Row(const std::byte* panel, int64_t lane, int64_t k, float* out);

}  // namespace atl::kernels
