// The definitions of packed_matrix.h and matmul.h for quantised weights, an operation at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/dtype.h"
#include "kernels/packed_matrix.h"

namespace atl::kernels {

// Groups of 32 of one row: integers and a scale each.
struct QuantizedRow {
  std::vector<int> v;
  std::vector<float> scale;
};

inline float Largest(const float* x, int64_t n) {
  float most = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<float>::infinity();
    if (std::abs(x[i]) > std::abs(most) || x[i] == -std::abs(most)) most = x[i];
  }
  return most;  // with its sign; of equal magnitudes the negative one
}

inline QuantizedRow QuantizeInputs(const float* x, int64_t k) {
  QuantizedRow row;
  for (int64_t at = 0; at < k; at += 32) {
    const int64_t n = std::min<int64_t>(32, k - at);
    const float most = std::abs(Largest(x + at, n));
    const bool finite = std::isfinite(most), none = most < 0x1p-100f;
    row.scale.push_back(!finite ? std::nanf("") : none ? 0 : most / 127.0f);
    for (int64_t i = at; i < at + n; ++i) {
      row.v.push_back(!finite || none ? 0
                                      : static_cast<int>(std::nearbyint(x[i] * (127.0f / most))));
    }
  }
  return row;
}

inline QuantizedRow QuantizeWeights(WeightFormat format, const float* w, int64_t k) {
  const bool q4 = format == WeightFormat::kQ4;
  QuantizedRow row;
  for (int64_t at = 0; at < k; at += 32) {
    const int64_t n = std::min<int64_t>(32, k - at);
    const float most = Largest(w + at, n);
    const float ideal = q4 ? most / -128 : std::abs(most) / 127;
    const float scale = std::abs(ideal) < 0x1p-100f ? 0 : RoundToBf16(ideal);
    row.scale.push_back(scale);
    for (int64_t i = at; i < at + n; ++i) {
      if (scale == 0) {
        row.v.push_back(0);
      } else if (q4) {
        const float quotient = w[i] * (1 / (16 * scale));
        row.v.push_back(16 * std::clamp(static_cast<int>(std::nearbyint(quotient)), -8, 7));
      } else {
        const float quotient = w[i] * (1 / scale);
        row.v.push_back(std::clamp(static_cast<int>(std::nearbyint(quotient)), -127, 127));
      }
    }
  }
  return row;
}

// The header's chain over groups.
inline float QuantChain(const QuantizedRow& x, const QuantizedRow& w) {
  float acc = 0;
  for (size_t g = 0; g < x.scale.size(); ++g) {
    int64_t dot = 0;
    for (size_t i = 32 * g; i < std::min(x.v.size(), 32 * g + 32); ++i)
      dot += int64_t{x.v[i]} * w.v[i];
    acc = std::fma(static_cast<float>(dot), x.scale[g] * w.scale[g], acc);
  }
  return acc;
}

}  // namespace atl::kernels
