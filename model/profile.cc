#include "model/profile.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

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

struct Suffix {
  const char* name;
  void (*apply)(NumericProfile*);
};

const Suffix kSuffixes[] = {
    {"+fp8cache", [](NumericProfile* p) { p->cache = DType::kF8E4M3; }},
    {"+expanded", [](NumericProfile* p) { p->prompt_attention = PromptAttention::kExpanded; }},
};

Status UnknownProfile(const std::string& name) {
  return InvalidArgument(
      "unknown numeric profile '%s': expected one of %s, and behind it any of %s", name,
      absl::StrJoin(ProfileNames(), ", "), absl::StrJoin(ProfileSuffixes(), ", "));
}

}  // namespace

StatusOr<NumericProfile> FindProfile(const std::string& name) {
  std::vector<std::string> parts = absl::StrSplit(name, '+');
  const auto base = std::find_if(std::begin(kProfiles), std::end(kProfiles),
                                 [&](const NumericProfile& p) { return p.name == parts.front(); });
  if (base == std::end(kProfiles)) return UnknownProfile(name);
  NumericProfile profile = *base;
  size_t found = 1;
  for (const Suffix& suffix : kSuffixes) {
    if (std::find(parts.begin() + 1, parts.end(), suffix.name + 1) == parts.end()) continue;
    suffix.apply(&profile);
    profile.name += suffix.name;
    ++found;
  }
  // Parts left over are unknown, empty or there twice.
  if (found != parts.size()) return UnknownProfile(name);
  return profile;
}

std::vector<std::string> ProfileNames() {
  std::vector<std::string> names;
  for (const NumericProfile& profile : kProfiles) names.push_back(profile.name);
  return names;
}

std::vector<std::string> ProfileSuffixes() {
  std::vector<std::string> names;
  for (const Suffix& suffix : kSuffixes) names.push_back(suffix.name);
  return names;
}

std::string BaseName(const NumericProfile& profile) {
  return profile.name.substr(0, profile.name.find('+'));
}

std::string NumericsId(const NumericProfile& profile) {
  return absl::StrFormat("%s/%d/cpu", profile.name, kNumericsVersion);
}

int64_t LatentBytes(const NumericProfile& profile, int64_t kv_lora_rank, int64_t qk_rope_head_dim) {
  if (profile.cache != DType::kF8E4M3)
    return (kv_lora_rank + qk_rope_head_dim) * DTypeBytes(profile.cache);
  // A scale for 128 values, and bf16 for what is rotated.
  const int64_t codes = (kv_lora_rank + 3) / 4 * 4, scales = (kv_lora_rank + 127) / 128 * 4;
  return (codes + scales + 2 * qk_rope_head_dim + 3) / 4 * 4;
}

}  // namespace atl::model
