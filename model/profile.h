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
  kQ8,     // 8 bits, groups of 32 along K (kernels/packed_matrix.h); the embedding stays exact
  kQ4,     // 4 bits, the same
  kFp8,    // e4m3 with a float32 scale for 128 x 128: FP8 blocks as they are, others made so
           // (model/encode.h)
};

// What inputs of matrix products are rounded to. kInt8: for each product, by the product itself
// (kernels/matmul.h); between products values stay float32.
enum class Activations : uint8_t { kF32, kBf16, kInt8 };

struct NumericProfile {
  std::string name;
  MatrixFormat weights = MatrixFormat::kExact;  // of all matrices but:
  MatrixFormat kv_b = MatrixFormat::kExact;     // kv_b_proj, absorbed into queries and outputs
  MatrixFormat head = MatrixFormat::kExact;     // head and the MTP layers' eh_proj, which published
                                                // FP8 checkpoints have in bf16
  Activations activations = Activations::kF32;
  DType wire = DType::kF32;   // rows between attention, router and experts
  DType cache = DType::kF32;  // latent cache
};

// Raised whenever the bits of any profile change.
inline constexpr int kNumericsVersion = 1;

// "reference", "bf16", "fp8w", "q8" and "q4". InvalidArgument names the unknown profile and lists
// those there are.
StatusOr<NumericProfile> FindProfile(const std::string& name);
std::vector<std::string> ProfileNames();
inline constexpr char kDefaultProfile[] = "q8";

// "bf16/1/cpu": profile, numerics version, kernel class. Part of every handshake; nodes with
// different ids refuse each other.
std::string NumericsId(const NumericProfile& profile);

}  // namespace atl::model
