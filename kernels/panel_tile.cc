#include "kernels/panel_tile.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace atl::kernels {

void TurnRows(const float* rows, int64_t num, int64_t k, int64_t at, PanelTile* tile) {
  constexpr int64_t kRows = PanelTile::kRows, kLanes = PanelTile::kLanes;
#if defined(__SSE2__)  // every x86-64 has it; one float at a time takes four times as long
  if (num == kLanes && k - at >= kRows) {
    for (int64_t lane = 0; lane < kLanes; lane += 4) {
      const float* from = rows + lane * k + at;
      for (int64_t i = 0; i < kRows; i += 4) {
        __m128 a = _mm_loadu_ps(from + i), b = _mm_loadu_ps(from + k + i),
               c = _mm_loadu_ps(from + 2 * k + i), d = _mm_loadu_ps(from + 3 * k + i);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_store_ps(&tile->w[i][lane], a);
        _mm_store_ps(&tile->w[i + 1][lane], b);
        _mm_store_ps(&tile->w[i + 2][lane], c);
        _mm_store_ps(&tile->w[i + 3][lane], d);
      }
    }
    return;
  }
#endif
  std::memset(tile->w, 0, sizeof tile->w);
  const int64_t count = std::min(kRows, k - at);
  for (int64_t lane = 0; lane < num; ++lane) {
    for (int64_t i = 0; i < count; ++i) tile->w[i][lane] = rows[lane * k + at + i];
  }
}

}  // namespace atl::kernels
