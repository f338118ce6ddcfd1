// Numeric profiles: what makes two runs give the same bits. See docs/numerics.md.
#pragma once

#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"

namespace atl::model {

enum class MatrixFormat : uint8_t {
  kExact,  // as in the checkpoint: bf16 stays bf16; FP8 blocks, fp16 and fp32 become float32,
           // exactly
  kBf16,   // rounded to bf16 (exact from bf16; FP8 blocks are decoded exactly first)
};

struct NumericProfile {
  std::string name;
  MatrixFormat weights = MatrixFormat::kExact;
  DType activations = DType::kF32;  // kF32 or kBf16: inputs of matrix products
  DType wire = DType::kF32;         // rows between attention, router and experts
  DType cache = DType::kF32;        // latent cache
};

// Raised whenever the bits of any profile change.
inline constexpr int kNumericsVersion = 1;

// "reference" and "bf16". InvalidArgument names the unknown profile and lists those there are.
StatusOr<NumericProfile> FindProfile(const std::string& name);
std::vector<std::string> ProfileNames();
inline constexpr char kDefaultProfile[] = "bf16";

// "bf16/1/cpu": profile, numerics version, kernel class. Part of every handshake; nodes with
// different ids refuse each other.
std::string NumericsId(const NumericProfile& profile);

}  // namespace atl::model
