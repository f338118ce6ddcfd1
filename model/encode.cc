#include "model/encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace atl::model {
namespace {

// Rounds |value| to a float with `mantissa_bits` after the point and exponents from `min_exponent`
// up, below which the spacing stays (subnormals), and gives value / (the spacing at min_exponent)
// when `value` is below, else the packed exponent and mantissa: in both cases the code of the small
// format without its sign, because codes of ascending magnitudes are consecutive.
uint32_t MagnitudeCode(float value, int mantissa_bits, int min_exponent) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  const int exponent = static_cast<int>(bits >> 23) - 127;
  if (exponent < min_exponent) {
    // Exact in float32 as long as it is at most 2^mantissa_bits; nearbyint rounds to even.
    return static_cast<uint32_t>(
        std::nearbyint(std::ldexp(std::fabs(value), mantissa_bits - min_exponent)));
  }
  const int drop = 23 - mantissa_bits;
  const uint32_t rounded = bits + ((1u << (drop - 1)) - 1) + ((bits >> drop) & 1u);
  return (rounded >> drop) - (static_cast<uint32_t>(min_exponent + 127 - 1) << mantissa_bits);
}

template <typename T>
void StoreAt(std::byte* out, int64_t i, T value) {
  std::memcpy(out + i * sizeof(T), &value, sizeof(T));
}

}  // namespace

uint16_t F32ToF16(float value) {
  const uint32_t sign = std::bit_cast<uint32_t>(value) >> 16 & 0x8000u;
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (std::fabs(value) >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  return static_cast<uint16_t>(sign | MagnitudeCode(value, 10, -14));
}

uint8_t F32ToF8E4M3(float value) {
  const uint32_t sign = std::bit_cast<uint32_t>(value) >> 24 & 0x80u;
  if (std::isnan(value)) return static_cast<uint8_t>(sign | 0x7fu);
  if (std::fabs(value) >= kF8E4M3Max) return static_cast<uint8_t>(sign | 0x7eu);
  return static_cast<uint8_t>(sign | MagnitudeCode(value, 3, -6));
}

void NarrowFromF32(DType dtype, const float* values, int64_t count, std::byte* out) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, values, count * 4);
      return;
    case DType::kBf16:
      for (int64_t i = 0; i < count; ++i) StoreAt(out, i, F32ToBf16(values[i]));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) StoreAt(out, i, F32ToF16(values[i]));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) StoreAt(out, i, F32ToF8E4M3(values[i]));
      return;
    case DType::kUnspecified:
      return;
  }
}

std::vector<float> ScaleBlocks(std::span<float> values, int64_t columns, int64_t block) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  std::vector<float> scale((columns + block - 1) / block);
  for (size_t b = 0; b < scale.size(); ++b) {
    const int64_t begin = static_cast<int64_t>(b) * block;
    const int64_t end = std::min(columns, begin + block);
    float largest = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = begin; k < end; ++k)
        largest = std::max(largest, std::fabs(values[r * columns + k]));
    }
    scale[b] = largest / kF8E4M3Max;
    if (scale[b] == 0) scale[b] = 1;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = begin; k < end; ++k) values[r * columns + k] /= scale[b];
    }
  }
  return scale;
}

}  // namespace atl::model
