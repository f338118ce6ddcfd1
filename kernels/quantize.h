// Inputs of products with quantised weights, as int8 (matmul.h). Private to kernels/.
#pragma once

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "kernels/context.h"
#include "kernels/cpu/table.h"
#include "kernels/packed_matrix.h"

namespace atl::kernels {

inline PanelFormat PanelFormatOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return PanelFormat::kF32;
    case WeightFormat::kBf16:
      return PanelFormat::kBf16;
    case WeightFormat::kQ8:
      return PanelFormat::kQ8;
    case WeightFormat::kQ4:
      return PanelFormat::kQ4;
    case WeightFormat::kFp8:
      return PanelFormat::kFp8;
  }
  return PanelFormat::kF32;
}

inline int64_t NumGroups(int64_t k) { return (k + kGroup - 1) / kGroup; }

// Where the int8 form of some rows lies: row i at data + i * stride.
struct QuantizedRows {
  const QuantGroup* data = nullptr;
  int64_t stride = 0;
};

// The rows that one call needs. They lie in memory of the calling thread, which grows to the
// largest call seen and is used again by the thread's next call: one object at a time is filled and
// read.
class QuantizedInputs {
 public:
  // Asks for rows [0, rows) of x, `ldx` floats apart, `k` long. Neighbouring requests for the same
  // x share one form. Returns what At takes.
  int64_t Add(const float* x, int64_t ldx, int64_t k, int64_t rows);
  // Quantises all that was asked for, once.
  void Run(const KernelContext& ctx);
  QuantizedRows At(int64_t i) const;  // after Run

 private:
  struct Source {
    const float* x;
    int64_t ldx, k, rows;
    int64_t first_group, first_row;  // among all sources
  };
  absl::InlinedVector<Source, 16> sources_;
  const QuantGroup* data_ = nullptr;
};

}  // namespace atl::kernels
