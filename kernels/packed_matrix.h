// Weights in the order in which the kernels read them.
#pragma once

#include <cstdint>
#include <memory>

#include "base/buffer.h"

namespace atl::kernels {

// What a weight is kept as.
//   kF32, kBf16  as named.
//   kQ8          int8, a bf16 scale for each group of 32 along K: 8.5 bits a weight.
//                w = v * scale, v in [-127, 127], scale = bf16(max |w| / 127),
//                v = w * (1 / scale) rounded to nearest, ties to even.
//   kQ4          4 bits, a bf16 scale for each group of 32 along K: 4.5 bits a weight.
//                w = v * scale, v in {-128, -112, ..., 112}, 128 scale = the weight of largest
//                magnitude (of two such the negative one), negated and rounded to bf16;
//                v / 16 = w * (1 / (16 scale)) rounded to nearest, ties to even.
//                (Reciprocals and products in float32; v is cut to its range.)
// A group whose scale is under 2^-100 is kept as zeros.
enum class WeightFormat : uint8_t { kF32 = 1, kBf16 = 2, kQ8 = 3, kQ4 = 4 };

const char* WeightFormatName(WeightFormat format);

// Products with such weights take int8 inputs (matmul.h).
inline bool IsQuantized(WeightFormat format) {
  return format == WeightFormat::kQ8 || format == WeightFormat::kQ4;
}

// W [N, K] in panels of 16 outputs (the last one padded with zeros). The order inside a panel is
// the kernels' affair; panels are whole and contiguous, so they can be filled by different threads.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(WeightFormat format, int64_t n, int64_t k);
  // In `memory` from `offset` (a multiple of 64) on, which has room for Bytes(...): matrices that
  // are used together lie together, so that small ones are in huge pages too.
  PackedMatrix(WeightFormat format, int64_t n, int64_t k, std::shared_ptr<Buffer> memory,
               int64_t offset);

  WeightFormat format() const { return format_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  bool empty() const { return n_ == 0; }
  int64_t num_panels() const { return (n_ + kPanel - 1) / kPanel; }
  int64_t panel_bytes() const { return PanelBytes(format_, k_); }
  int64_t bytes() const { return num_panels() * panel_bytes(); }
  const std::byte* panel(int64_t i) const { return data_ + i * panel_bytes(); }

  // Fills panel `i` from rows [16 i, min(16 i + 16, N)) of W given as finite float32 [rows, K],
  // row-major. kBf16 rounds to nearest even (exact where the source was bf16). Different panels may
  // be filled at the same time.
  void FillPanel(int64_t i, const float* rows);

  // Row `n` back as float32 [K] (embedding look-up of a tied head, tests).
  void ReadRow(int64_t n, float* out) const;

  static constexpr int64_t kPanel = 16;

  static int64_t PanelBytes(WeightFormat format, int64_t k);
  // bytes() of a matrix that does not exist yet.
  static int64_t Bytes(WeightFormat format, int64_t n, int64_t k) {
    return (n + kPanel - 1) / kPanel * PanelBytes(format, k);
  }

 private:
  WeightFormat format_ = WeightFormat::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  std::shared_ptr<Buffer> memory_;
  std::byte* data_ = nullptr;  // in memory_
};

}  // namespace atl::kernels
