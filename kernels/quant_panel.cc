#include "kernels/quant_panel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/dtype.h"
#include "kernels/cpu/constants.h"
#include "kernels/cpu/table.h"

namespace atl::kernels {
namespace {

constexpr int64_t kLanes = 16;

// 32 weights of one output as unsigned numbers around 128 (kQ8) or 8 (kQ4).
struct Group {
  uint8_t v[kGroup];
  Bf16 scale = 0;
};

Bf16 ScaleOf(float scale) {
  return std::abs(scale) < std::bit_cast<float>(kQuantTinyBits) ? Bf16{0} : F32ToBf16(scale);
}

// v = w * (1 / step), rounded, within [low, high], plus zero. step 0: all zero.
void Divide(const float* w, float step, int low, int high, int zero, uint8_t* v) {
  const float inverse = step != 0 ? 1 / step : 0;
  for (int64_t i = 0; i < kGroup; ++i) {
    const float rounded = w[i] * inverse + kRoundMagic;
    const int x = static_cast<int>(std::bit_cast<uint32_t>(rounded)) - 0x4b400000;
    v[i] = static_cast<uint8_t>(std::clamp(x, low, high) + zero);
  }
}

Group QuantizeQ8(const float* w) {
  float most = 0;
  for (int64_t i = 0; i < kGroup; ++i) most = std::max(most, std::abs(w[i]));
  Group group;
  group.scale = ScaleOf(most / 127);
  Divide(w, Bf16ToF32(group.scale), -127, 127, 128, group.v);
  return group;
}

Group QuantizeQ4(const float* w) {
  float low = 0, high = 0;
  for (int64_t i = 0; i < kGroup; ++i) {
    low = std::min(low, w[i]);
    high = std::max(high, w[i]);
  }
  Group group;
  group.scale = ScaleOf((high > -low ? high : low) / -128);
  Divide(w, 16 * Bf16ToF32(group.scale), -8, 7, 8, group.v);
  return group;
}

std::byte* ScalePlace(bool q4, std::byte* panel, int64_t group, int64_t lane) {
  return panel + ScalesOffset(q4, group) + 2 * lane;
}

void StoreQ8(const Group& group, int64_t lane, std::byte* data) {
  for (int64_t k = 0; k < kGroup; k += 4) std::memcpy(data + k * kLanes + 4 * lane, group.v + k, 4);
}

void StoreQ4(const Group& group, int64_t lane, std::byte* data) {
  for (int64_t k = 0; k < kGroup; k += 8) {
    uint8_t pairs[4];
    for (int64_t b = 0; b < 4; ++b)
      pairs[b] = static_cast<uint8_t>(group.v[k + b] | group.v[k + 4 + b] << 4);
    std::memcpy(data + k / 2 * kLanes + 4 * lane, pairs, 4);
  }
}

}  // namespace

int64_t QuantPanelBytes(bool q4, int64_t k) {
  const int64_t groups = (k + kGroup - 1) / kGroup;
  return (groups + 1) / 2 * kScalesBytes + groups * GroupBytes(q4);
}

void FillQuantPanel(bool q4, const float* rows, int64_t num, int64_t k, std::byte* panel) {
  static constexpr float kZeros[kGroup] = {};
  for (int64_t at = 0; at < k; at += kGroup) {
    const int64_t g = at / kGroup;
    std::byte* data = panel + DataOffset(q4, g);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float* w = lane < num ? rows + lane * k + at : kZeros;
      float padded[kGroup] = {};
      if (lane < num && k - at < kGroup) {
        std::copy_n(w, k - at, padded);
        w = padded;
      }
      const Group group = q4 ? QuantizeQ4(w) : QuantizeQ8(w);
      std::memcpy(ScalePlace(q4, panel, g, lane), &group.scale, 2);
      if (q4) {
        StoreQ4(group, lane, data);
      } else {
        StoreQ8(group, lane, data);
      }
    }
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
