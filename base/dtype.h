// Element types and their exact conversions. All roundings are to nearest, ties to even.
#pragma once

#include <bit>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace atl {

// Values are part of the data plane's frame header: never renumber.
enum class DType : uint8_t {
  kUnspecified = 0,
  kF32 = 1,
  kBf16 = 2,
  kF16 = 3,
  kF8E4M3 = 4,  // float8_e4m3fn: no infinity, NaN is S.1111.111
};

int64_t DTypeBytes(DType dtype);
const char* DTypeName(DType dtype);  // as safetensors spells it: "F32", "BF16", "F16", "F8_E4M3"
StatusOr<DType> ParseDType(const std::string& name);

using Bf16 = uint16_t;  // the upper half of a float32

inline float Bf16ToF32(Bf16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v) << 16); }

inline Bf16 F32ToBf16(float v) {
  uint32_t bits = std::bit_cast<uint32_t>(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<Bf16>((bits >> 16) | 0x40u);  // NaN stays NaN
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<Bf16>(bits >> 16);
}

inline float RoundToBf16(float v) { return Bf16ToF32(F32ToBf16(v)); }

float F16ToF32(uint16_t v);
float F8E4M3ToF32(uint8_t v);

inline constexpr float kF8E4M3Max = 448;
uint8_t F32ToF8E4M3(float v);  // saturates at 448; NaN stays NaN

}  // namespace atl
