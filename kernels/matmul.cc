#include "kernels/matmul.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/table.h"
#include "kernels/parallel.h"
#include "kernels/quantize.h"
#include "kernels/unit_grid.h"

namespace atl::kernels {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;

void RunUnit(const KernelContext& ctx, const MatMulJob& job, const QuantizedRows& q,
             const UnitPlace& place) {
  const PackedMatrix& w = *job.w;
  for (int64_t p0 = place.panel; p0 < place.panel + place.num_panels; p0 += kUnitPanels) {
    PanelUnit unit = {.format = PanelFormatOf(w.format()), .k = w.k(), .m = place.num_rows};
    unit.num_panels =
        static_cast<int>(std::min<int64_t>(kUnitPanels, place.panel + place.num_panels - p0));
    for (int p = 0; p < unit.num_panels; ++p) unit.w[p] = w.panel(p0 + p);
    if (IsQuantized(w.format())) {
      unit.q = q.data + place.row * q.stride;
      unit.ldq = q.stride;
    } else {
      unit.x = job.x + place.row * job.ldx;
      unit.ldx = job.ldx;
    }
    const int64_t cols = std::min(unit.num_panels * kPanel, w.n() - p0 * kPanel);
    ctx.table->matmul_unit(unit, job.y + place.row * job.ldy + p0 * kPanel, job.ldy, cols,
                           job.rounding == Rounding::kBf16);
  }
}

}  // namespace

void MatMul(const KernelContext& ctx, std::span<const MatMulJob> jobs) {
  QuantizedInputs inputs;
  absl::InlinedVector<int64_t, 64> input(jobs.size());  // of quantised jobs
  for (size_t i = 0; i < jobs.size(); ++i) {
    const MatMulJob& job = jobs[i];
    if (IsQuantized(job.w->format())) input[i] = inputs.Add(job.x, job.ldx, job.w->k(), job.m);
  }
  inputs.Run(ctx);
  const UnitGrid grid = MakeGrid(NumSlots(ctx), [&](UnitGrid& g) {
    for (const MatMulJob& job : jobs) {
      ATL_DCHECK(job.m >= 0 && (job.m <= 1 || (job.ldx >= job.w->k() && job.ldy >= job.w->n())));
      g.Add(job.w->num_panels(), job.w->panel_bytes(), job.m);
    }
  });
  For(ctx, grid.size(), [&](int64_t i) {
    const UnitPlace place = grid.At(i);
    const MatMulJob& job = jobs[place.job];
    RunUnit(ctx, job, IsQuantized(job.w->format()) ? inputs.At(input[place.job]) : QuantizedRows{},
            place);
  });
}

}  // namespace atl::kernels
