#include "model/encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace atl::model {
namespace {

// The half float nearest to |value| < 65520: codes of ascending magnitudes are consecutive, so that
// rounding may carry into the exponent.
uint32_t MagnitudeCode(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  // Subnormals: multiples of 2^-24, exact in float32; nearbyint rounds to even.
  if (bits < 0x38800000u)
    return static_cast<uint32_t>(std::nearbyint(std::ldexp(std::fabs(value), 24)));
  return ((bits + 0xfffu + (bits >> 13 & 1u)) >> 13) - (112u << 10);
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
  return static_cast<uint16_t>(sign | MagnitudeCode(value));
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
