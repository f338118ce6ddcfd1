#include "kernels/packed_matrix.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cpu/table.h"
#include "kernels/fp8_panel.h"
#include "kernels/quant_panel.h"

namespace atl::kernels {

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBf16:
      return "bf16";
    case WeightFormat::kQ8:
      return "q8";
    case WeightFormat::kQ4:
      return "q4";
    case WeightFormat::kFp8:
      return "fp8";
  }
  return "unknown";
}

PackedMatrix::PackedMatrix(WeightFormat format, int64_t n, int64_t k)
    : PackedMatrix(format, n, k, std::make_shared<Buffer>(static_cast<size_t>(Bytes(format, n, k))),
                   0) {}

PackedMatrix::PackedMatrix(WeightFormat format, int64_t n, int64_t k,
                           std::shared_ptr<Buffer> memory, int64_t offset)
    : format_(format), n_(n), k_(k), memory_(std::move(memory)), data_(memory_->data() + offset) {
  ATL_CHECK(n >= 0 && k >= 0 && offset % 64 == 0);
  ATL_CHECK(offset + bytes() <= static_cast<int64_t>(memory_->size()));
}

// kF32: [K][16] floats. kBf16: [ceil(K / 2)][16] words of 32 bits, k in the lower half, k + 1 in
// the upper: one 64-byte load gives two k's of 16 outputs, a shift and a mask away from float32.
int64_t PackedMatrix::PanelBytes(WeightFormat format, int64_t k) {
  if (IsQuantized(format)) return QuantPanelBytes(format == WeightFormat::kQ4, k);
  if (format == WeightFormat::kFp8) return Fp8PanelBytes(k);
  return format == WeightFormat::kBf16 ? (k + 1) / 2 * 64 : k * 64;
}

void PackedMatrix::FillFp8Panel(int64_t i, const uint8_t* codes, const float* scale) {
  ATL_CHECK(format_ == WeightFormat::kFp8);
  ATL_DCHECK(i >= 0 && i < num_panels());
  PackFp8Panel(codes, scale, std::min(kPanel, n_ - i * kPanel), k_, data_ + i * panel_bytes());
}

void PackedMatrix::FillPanel(int64_t i, const float* rows) {
  ATL_CHECK(format_ != WeightFormat::kFp8);
  ATL_DCHECK(i >= 0 && i < num_panels());
  std::byte* panel = data_ + i * panel_bytes();
  const int64_t num = std::min(kPanel, n_ - i * kPanel);
  if (IsQuantized(format_))
    return FillQuantPanel(format_ == WeightFormat::kQ4, rows, num, k_, panel);
  if (format_ == WeightFormat::kF32) {
    float* out = reinterpret_cast<float*>(panel);
    for (int64_t k = 0; k < k_; ++k) {
      for (int64_t lane = 0; lane < num; ++lane) out[k * kPanel + lane] = rows[lane * k_ + k];
    }
    return;
  }
  uint32_t* out = reinterpret_cast<uint32_t*>(panel);
  for (int64_t k = 0; k < k_; k += 2) {
    for (int64_t lane = 0; lane < num; ++lane) {
      const float* from = rows + lane * k_ + k;
      const uint32_t high = k + 1 < k_ ? F32ToBf16(from[1]) : 0;
      out[k / 2 * kPanel + lane] = high << 16 | F32ToBf16(from[0]);
    }
  }
}

void PackedMatrix::ReadRow(int64_t n, float* out) const {
  ATL_DCHECK(n >= 0 && n < n_);
  const std::byte* start = panel(n / kPanel);
  const int64_t lane = n % kPanel;
  if (IsQuantized(format_)) return ReadQuantRow(format_ == WeightFormat::kQ4, start, lane, k_, out);
  if (format_ == WeightFormat::kFp8) return ReadFp8Row(start, lane, k_, out);
  if (format_ == WeightFormat::kF32) {
    for (int64_t k = 0; k < k_; ++k)
      out[k] = reinterpret_cast<const float*>(start)[k * kPanel + lane];
    return;
  }
  for (int64_t k = 0; k < k_; ++k) {
    const uint32_t pair = reinterpret_cast<const uint32_t*>(start)[k / 2 * kPanel + lane];
    out[k] = Bf16ToF32(static_cast<Bf16>(k % 2 == 0 ? pair : pair >> 16));
  }
}

}  // namespace atl::kernels
