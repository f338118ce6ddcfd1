#include "kernels/matmul.h"

#include <algorithm>

#include "base/check.h"
#include "base/dtype.h"
#include "kernels/cpu/table.h"
#include "kernels/parallel.h"
#include "kernels/unit_grid.h"

namespace atl::kernels {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;

void RunUnit(const KernelContext& ctx, const MatMulJob& job, const UnitPlace& place) {
  const PackedMatrix& w = *job.w;
  for (int64_t p0 = place.panel; p0 < place.panel + place.num_panels; p0 += kUnitPanels) {
    PanelUnit unit = {
        .bf16 = w.format() == WeightFormat::kBf16, .k = w.k(), .ldx = job.ldx, .m = place.num_rows};
    unit.num_panels =
        static_cast<int>(std::min<int64_t>(kUnitPanels, place.panel + place.num_panels - p0));
    for (int p = 0; p < unit.num_panels; ++p) unit.w[p] = w.panel(p0 + p);
    unit.x = job.x + place.row * job.ldx;
    const int64_t cols = std::min(unit.num_panels * kPanel, w.n() - p0 * kPanel);
    ctx.table->matmul_unit(unit, job.y + place.row * job.ldy + p0 * kPanel, job.ldy, cols,
                           job.rounding == Rounding::kBf16);
  }
}

}  // namespace

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "f32";
    case WeightFormat::kBf16:
      return "bf16";
  }
  return "unknown";
}

PackedMatrix::PackedMatrix(WeightFormat format, int64_t n, int64_t k)
    : format_(format), n_(n), k_(k) {
  ATL_CHECK(n >= 0 && k >= 0);
  data_ = Buffer(static_cast<size_t>(bytes()));
}

// kF32: [K][16] floats. kBf16: [ceil(K / 2)][16] words of 32 bits, k in the lower half, k + 1 in
// the upper: one 64-byte load gives two k's of 16 outputs, a shift and a mask away from float32.
int64_t PackedMatrix::panel_bytes() const {
  return format_ == WeightFormat::kBf16 ? (k_ + 1) / 2 * 64 : k_ * 64;
}

void PackedMatrix::FillPanel(int64_t i, const float* rows) {
  ATL_DCHECK(i >= 0 && i < num_panels());
  std::byte* panel = data_.data() + i * panel_bytes();
  const int64_t num = std::min(kPanel, n_ - i * kPanel);
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

void MatMul(const KernelContext& ctx, std::span<const MatMulJob> jobs) {
  const UnitGrid grid = MakeGrid(NumSlots(ctx), [&](UnitGrid& g) {
    for (const MatMulJob& job : jobs) {
      ATL_DCHECK(job.m >= 0 && (job.m <= 1 || (job.ldx >= job.w->k() && job.ldy >= job.w->n())));
      g.Add(job.w->num_panels(), job.w->panel_bytes(), job.m);
    }
  });
  For(ctx, grid.size(), [&](int64_t i) {
    const UnitPlace place = grid.At(i);
    RunUnit(ctx, jobs[place.job], place);
  });
}

}  // namespace atl::kernels
