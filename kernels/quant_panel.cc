#include "kernels/quant_panel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/dtype.h"
#include "kernels/cpu/constants.h"
#include "kernels/cpu/table.h"
#include "kernels/panel_tile.h"

namespace atl::kernels {
namespace {

constexpr int64_t kLanes = 16;

// A number for each of the 16 outputs. Loops over them have a fixed length and no branches: they
// are vectorised.
template <typename T>
struct Lanes {
  alignas(64) T v[kLanes];
};

// How a group of each output is quantised: v = w * inverse, rounded, within [low, high], plus zero.
struct GroupRule {
  Lanes<float> inverse;  // 0 where all are zero
  float low, high;
  int32_t zero;
};

// As F32ToBf16 does with numbers.
Bf16 RoundScale(float scale) {
  const uint32_t bits = std::bit_cast<uint32_t>(scale);
  const bool tiny = std::abs(scale) < std::bit_cast<float>(kQuantTinyBits);
  return static_cast<Bf16>(tiny ? 0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The scales, which are written, and the rule that follows from them. steps: values of v between
// two codes.
GroupRule ScaleGroup(const Lanes<float>& scale, float steps, GroupRule rule, std::byte* out) {
  Lanes<Bf16> rounded;
  for (int64_t lane = 0; lane < kLanes; ++lane) rounded.v[lane] = RoundScale(scale.v[lane]);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const float step = steps * Bf16ToF32(rounded.v[lane]);
    rule.inverse.v[lane] = step != 0 ? 1 / step : 0;
  }
  std::memcpy(out, rounded.v, sizeof rounded.v);
  return rule;
}

GroupRule ScaleQ8(const PanelTile& tile, std::byte* scales) {
  Lanes<float> most = {};
  for (int64_t k = 0; k < kGroup; ++k) {
    for (int64_t lane = 0; lane < kLanes; ++lane)
      most.v[lane] = std::max(most.v[lane], std::abs(tile.w[k][lane]));
  }
  for (float& value : most.v) value /= 127;
  return ScaleGroup(most, 1, {.low = -127, .high = 127, .zero = 128}, scales);
}

GroupRule ScaleQ4(const PanelTile& tile, std::byte* scales) {
  Lanes<float> low = {}, high = {};
  for (int64_t k = 0; k < kGroup; ++k) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      low.v[lane] = std::min(low.v[lane], tile.w[k][lane]);
      high.v[lane] = std::max(high.v[lane], tile.w[k][lane]);
    }
  }
  Lanes<float> scale;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const float extreme = high.v[lane] > -low.v[lane] ? high.v[lane] : low.v[lane];
    scale.v[lane] = extreme / -128;
  }
  return ScaleGroup(scale, 16, {.low = -8, .high = 7, .zero = 8}, scales);
}

// Adds v of one k, shifted, to the word of each output.
void AddCodes(const float* w, const GroupRule& rule, int shift, Lanes<uint32_t>* words) {
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    // The bounds are integers: before rounding they do what they would do after it.
    const float v = std::min(std::max(w[lane] * rule.inverse.v[lane], rule.low), rule.high);
    const int32_t code =
        std::bit_cast<int32_t>(v + kRoundMagic) - std::bit_cast<int32_t>(kRoundMagic) + rule.zero;
    words->v[lane] |= static_cast<uint32_t>(code) << shift;
  }
}

// cpu/table.h, GroupBytes.
void StoreCodes(bool q4, const PanelTile& tile, const GroupRule& rule, std::byte* data) {
  const int64_t step = q4 ? 8 : 4;
  for (int64_t k = 0; k < kGroup; k += step) {
    Lanes<uint32_t> words = {};
    for (int b = 0; b < 4; ++b) {
      AddCodes(tile.w[k + b], rule, 8 * b, &words);
      if (q4) AddCodes(tile.w[k + 4 + b], rule, 8 * b + 4, &words);
    }
    std::memcpy(data + k / step * sizeof words.v, words.v, sizeof words.v);
  }
}

}  // namespace

int64_t QuantPanelBytes(bool q4, int64_t k) {
  const int64_t groups = (k + kGroup - 1) / kGroup;
  return (groups + 1) / 2 * kScalesBytes + groups * GroupBytes(q4);
}

void FillQuantPanel(bool q4, const float* rows, int64_t num, int64_t k, std::byte* panel) {
  static_assert(PanelTile::kRows == kGroup && PanelTile::kLanes == kLanes);
  for (int64_t at = 0; at < k; at += kGroup) {
    const int64_t g = at / kGroup;
    PanelTile tile;
    TurnRows(rows, num, k, at, &tile);
    std::byte* const scales = panel + ScalesOffset(q4, g);
    const GroupRule rule = q4 ? ScaleQ4(tile, scales) : ScaleQ8(tile, scales);
    StoreCodes(q4, tile, rule, panel + DataOffset(q4, g));
  }
}

void ReadQuantRow(bool q4, const std::byte* panel, int64_t lane, int64_t k, float* out) {
  for (int64_t i = 0; i < k; ++i) {
    const int64_t g = i / kGroup, in = i % kGroup;
    Bf16 scale;
    std::memcpy(&scale, panel + ScalesOffset(q4, g) + 2 * lane, 2);
    const std::byte* data = panel + DataOffset(q4, g);
    int v;
    if (q4) {
      const int both = static_cast<int>(data[in / 8 * 64 + 4 * lane + in % 4]);
      v = 16 * ((in % 8 < 4 ? both & 15 : both >> 4) - 8);
    } else {
      v = static_cast<int>(data[in / 4 * 64 + 4 * lane + in % 4]) - 128;
    }
    out[i] = static_cast<float>(v) * Bf16ToF32(scale);
  }
}

}  // namespace atl::kernels
