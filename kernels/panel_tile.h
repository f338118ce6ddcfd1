// A piece of a panel's rows, turned so that its 16 outputs lie side by side: what panels are filled
// from. Private to kernels/.
#pragma once

#include <cstdint>

namespace atl::kernels {

struct PanelTile {
  static constexpr int64_t kRows = 32;  // of K
  static constexpr int64_t kLanes = 16;
  alignas(64) float w[kRows][kLanes];
};

// tile.w[i][lane] = rows[lane * k + at + i], zeros where W ends: lane >= num, at + i >= k.
void TurnRows(const float* rows, int64_t num, int64_t k, int64_t at, PanelTile* tile);

}  // namespace atl::kernels
