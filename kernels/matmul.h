// y = x W^T with W packed once: the workhorse. Shapes are the caller's promise (checked in debug
// builds).
//
// Bits: y[m, n] is one chain acc = fma(x[m, k], w[n, k], acc) over k = 0, 1, ..., K-1 from acc = 0,
// in float32. It does not depend on M, on the tile, on threads or on the instruction set.
#pragma once

#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "base/buffer.h"
#include "kernels/context.h"

namespace atl::kernels {

enum class WeightFormat : uint8_t { kF32 = 1, kBf16 = 2 };

const char* WeightFormatName(WeightFormat format);

// W [N, K] in panels of 16 outputs (the last one padded with zeros). The order inside a panel is
// the kernels' affair; panels are whole and contiguous, so they can be filled by different threads.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(WeightFormat format, int64_t n, int64_t k);

  WeightFormat format() const { return format_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  bool empty() const { return n_ == 0; }
  int64_t num_panels() const { return (n_ + kPanel - 1) / kPanel; }
  int64_t panel_bytes() const;
  int64_t bytes() const { return num_panels() * panel_bytes(); }
  const std::byte* panel(int64_t i) const { return data_.data() + i * panel_bytes(); }

  // Fills panel `i` from rows [16 i, min(16 i + 16, N)) of W given as float32 [rows, K], row-major.
  // kBf16 rounds to nearest even (exact where the source was bf16). Different panels may be filled
  // at the same time.
  void FillPanel(int64_t i, const float* rows);

  // Row `n` back as float32 [K] (embedding look-up of a tied head, tests).
  void ReadRow(int64_t n, float* out) const;

  static constexpr int64_t kPanel = 16;

 private:
  WeightFormat format_ = WeightFormat::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  Buffer data_;
};

// One product: y [m, N] = x [m, K] W^T. x has been rounded to the profile's activation type before.
struct MatMulJob {
  const PackedMatrix* w = nullptr;
  const float* x = nullptr;
  int64_t ldx = 0;  // elements from one row of x to the next
  int64_t m = 0;
  float* y = nullptr;
  int64_t ldy = 0;
  Rounding rounding = Rounding::kNone;  // applied to y
};

// Runs all jobs as one parallel loop over (job, panels). Outputs may not overlap inputs or each
// other.
void MatMul(const KernelContext& ctx, std::span<const MatMulJob> jobs);
inline void MatMul(const KernelContext& ctx, const MatMulJob& job) {
  MatMul(ctx, std::span(&job, 1));
}

}  // namespace atl::kernels
