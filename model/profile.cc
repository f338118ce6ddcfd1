#include "model/profile.h"

namespace atl::model {
namespace {

// Source: docs/numerics.md, the table of profiles.
const NumericProfile kProfiles[] = {
    {.name = "reference",
     .weights = MatrixFormat::kExact,
     .kv_b = MatrixFormat::kExact,
     .head = MatrixFormat::kExact,
     .activations = Activations::kF32,
     .wire = DType::kF32,
     .cache = DType::kF32},
    {.name = "bf16",
     .weights = MatrixFormat::kBf16,
     .kv_b = MatrixFormat::kBf16,
     .head = MatrixFormat::kBf16,
     .activations = Activations::kBf16,
     .wire = DType::kBf16,
     .cache = DType::kBf16},
    {.name = "fp8w",
     .weights = MatrixFormat::kFp8,
     .kv_b = MatrixFormat::kBf16,
     .head = MatrixFormat::kBf16,
     .activations = Activations::kBf16,
     .wire = DType::kBf16,
     .cache = DType::kBf16},
    {.name = "q8",
     .weights = MatrixFormat::kQ8,
     .kv_b = MatrixFormat::kQ8,
     .head = MatrixFormat::kQ8,
     .activations = Activations::kInt8,
     .wire = DType::kBf16,
     .cache = DType::kBf16},
    {.name = "q4",
     .weights = MatrixFormat::kQ4,
     .kv_b = MatrixFormat::kQ8,
     .head = MatrixFormat::kQ4,
     .activations = Activations::kInt8,
     .wire = DType::kBf16,
     .cache = DType::kBf16},
};

}  // namespace

StatusOr<NumericProfile> FindProfile(const std::string& name) {
  std::string known;
  for (const NumericProfile& profile : kProfiles) {
    if (profile.name == name) return profile;
    known += (known.empty() ? "" : ", ") + profile.name;
  }
  return InvalidArgument("unknown numeric profile '%s': expected one of %s", name, known);
}

std::vector<std::string> ProfileNames() {
  std::vector<std::string> names;
  for (const NumericProfile& profile : kProfiles) names.push_back(profile.name);
  return names;
}

std::string NumericsId(const NumericProfile& profile) {
  return absl::StrFormat("%s/%d/cpu", profile.name, kNumericsVersion);
}

}  // namespace atl::model
