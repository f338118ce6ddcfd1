#include "model/decode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace atl::model {
namespace {

const std::array<float, 256>& F8E4M3Table() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> values;
    for (int i = 0; i < 256; ++i) values[i] = F8E4M3ToF32(static_cast<uint8_t>(i));
    return values;
  }();
  return table;
}

uint16_t LoadU16(const std::byte* raw, int64_t i) {
  uint16_t value;
  std::memcpy(&value, raw + 2 * i, 2);
  return value;
}

}  // namespace

void WidenToF32(DType dtype, const std::byte* raw, int64_t count, float* out) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, raw, count * 4);
      return;
    case DType::kBf16:
      for (int64_t i = 0; i < count; ++i) out[i] = Bf16ToF32(LoadU16(raw, i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = F16ToF32(LoadU16(raw, i));
      return;
    case DType::kF8E4M3: {
      const std::array<float, 256>& table = F8E4M3Table();
      for (int64_t i = 0; i < count; ++i) out[i] = table[static_cast<uint8_t>(raw[i])];
      return;
    }
    case DType::kUnspecified:
      return;
  }
}

int64_t FindNonFinite(const float* values, int64_t count) {
  constexpr int64_t kStep = 4096;
  const auto is_bad = [](float v) {
    return (std::bit_cast<uint32_t>(v) & 0x7f800000u) == 0x7f800000u;
  };
  for (int64_t begin = 0; begin < count; begin += kStep) {
    const int64_t end = std::min(count, begin + kStep);
    uint32_t bad = 0;  // no early exit inside: this loop is vectorised
    for (int64_t i = begin; i < end; ++i) bad |= is_bad(values[i]);
    if (bad == 0) continue;
    return std::find_if(values + begin, values + end, is_bad) - values;
  }
  return -1;
}

void ScaleRow(float* row, int64_t columns, const float* scale, int64_t block) {
  for (int64_t begin = 0; begin < columns; begin += block) {
    const float factor = scale[begin / block];
    const int64_t end = std::min(columns, begin + block);
    for (int64_t k = begin; k < end; ++k) row[k] *= factor;
  }
}

}  // namespace atl::model
