#include "kernels/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cpu/table.h"
#include "kernels/fp8_panel.h"
#include "kernels/panel_tile.h"
#include "kernels/quant_panel.h"

namespace atl::kernels {
namespace {

// As F32ToBf16 does with numbers; without a branch, so that loops are vectorised.
uint32_t RoundUpperHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits + 0x7fff + (bits >> 16 & 1);
}

// `pairs` lines of words: k in the lower half, k + 1 in the upper.
void StoreBf16(const PanelTile& tile, int64_t pairs, std::byte* out) {
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const float *even = tile.w[2 * pair], *odd = tile.w[2 * pair + 1];
    alignas(64) uint32_t words[PanelTile::kLanes];
    for (int64_t lane = 0; lane < PanelTile::kLanes; ++lane)
      words[lane] = (RoundUpperHalf(odd[lane]) & 0xffff0000u) | RoundUpperHalf(even[lane]) >> 16;
    std::memcpy(out + pair * sizeof words, words, sizeof words);
  }
}

}  // namespace

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
  for (int64_t at = 0; at < k_; at += PanelTile::kRows) {
    PanelTile tile;
    TurnRows(rows, num, k_, at, &tile);
    const int64_t count = std::min(PanelTile::kRows, k_ - at);
    if (format_ == WeightFormat::kF32) {
      std::memcpy(panel + at * sizeof tile.w[0], tile.w, count * sizeof tile.w[0]);
    } else {
      StoreBf16(tile, (count + 1) / 2, panel + at / 2 * sizeof tile.w[0]);
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
