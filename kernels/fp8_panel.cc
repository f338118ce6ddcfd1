#include "kernels/fp8_panel.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cpu/table.h"
#include "kernels/packed_matrix.h"

namespace atl::kernels {
namespace {

constexpr int64_t kLanes = PackedMatrix::kPanel;
constexpr float kUp = 0x1p120f, kDown = 0x1p-120f;

static_assert(PackedMatrix::kFp8Block == kFp8Block);
static_assert(PackedMatrix::kFp8ScaleLimit == 0x1p128 / kUp);

}  // namespace

void PackFp8Panel(const uint8_t* codes, const float* scale, int64_t num, int64_t k,
                  std::byte* panel) {
  for (int64_t b = 0; b * kFp8Block < k; ++b) {
    ATL_DCHECK(std::abs(scale[b]) < PackedMatrix::kFp8ScaleLimit);
    const float stored = scale[b] * kUp;
    std::memcpy(panel + 4 * b, &stored, 4);
  }
  std::byte* line = panel + Fp8DataOffset(k);
  for (int64_t at = 0; at < k; at += 4, line += 4 * kLanes) {
    const int64_t count = std::min<int64_t>(4, k - at);
    for (int64_t lane = 0; lane < num; ++lane) {
      if (count == 4) {
        std::memcpy(line + 4 * lane, codes + lane * k + at, 4);
      } else {
        std::memcpy(line + 4 * lane, codes + lane * k + at, count);
      }
    }
  }
}

void ReadFp8Row(const std::byte* panel, int64_t lane, int64_t k, float* out) {
  const std::byte* data = panel + Fp8DataOffset(k);
  for (int64_t i = 0; i < k; ++i) {
    float stored;
    std::memcpy(&stored, panel + i / kFp8Block * 4, 4);
    const auto code = static_cast<uint8_t>(data[i / 4 * 4 * kLanes + 4 * lane + i % 4]);
    out[i] = F8E4M3ToF32(code) * kDown * stored;
  }
}

}  // namespace atl::kernels
