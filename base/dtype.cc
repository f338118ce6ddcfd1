#include "base/dtype.h"

#include <cmath>
#include <limits>

namespace atl {

int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kBf16:
    case DType::kF16:
      return 2;
    case DType::kF8E4M3:
      return 1;
    case DType::kUnspecified:
      return 0;
  }
  return 0;
}

const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBf16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kUnspecified:
      return "UNSPECIFIED";
  }
  return "UNSPECIFIED";
}

StatusOr<DType> ParseDType(const std::string& name) {
  for (DType d : {DType::kF32, DType::kBf16, DType::kF16, DType::kF8E4M3}) {
    if (name == DTypeName(d)) return d;
  }
  return InvalidArgument("dtype '%s' is not supported: expected F32, BF16, F16 or F8_E4M3", name);
}

float F16ToF32(uint16_t v) {
  const uint32_t sign = static_cast<uint32_t>(v & 0x8000u) << 16;
  const uint32_t exponent = (v >> 10) & 0x1fu;
  const uint32_t mantissa = v & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

float F8E4M3ToF32(uint8_t v) {
  const bool negative = v & 0x80u;
  const int exponent = (v >> 3) & 0xf;
  const int mantissa = v & 0x7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return negative ? -magnitude : magnitude;
}

// Codes of ascending magnitudes are consecutive, so that rounding may carry into the exponent.
uint8_t F32ToF8E4M3(float v) {
  constexpr uint32_t kLeastNormal = 0x3c800000u;  // 2^-6
  constexpr float kMagic = 24576;  // 1.5 * 2^14: adding it rounds to the subnormals' spacing, 2^-9
  const uint32_t bits = std::bit_cast<uint32_t>(v), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 24 & 0x80u;
  uint32_t code;
  if (magnitude > 0x7f800000u) {
    code = 0x7f;
  } else if (magnitude >= std::bit_cast<uint32_t>(kF8E4M3Max)) {
    code = 0x7e;
  } else if (magnitude < kLeastNormal) {
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + kMagic) -
           std::bit_cast<uint32_t>(kMagic);
  } else {
    code = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
  }
  return static_cast<uint8_t>(sign | code);
}

}  // namespace atl
