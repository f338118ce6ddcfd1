#include "kernels/ffn.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "base/check.h"
#include "kernels/cpu/table.h"
#include "kernels/parallel.h"
#include "kernels/quantize.h"
#include "kernels/unit_grid.h"

namespace atl::kernels {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;
constexpr int64_t kPairs = kUnitPanels / 2;  // panels of gate, and as many of up, in one pass

// h [m, F] of the unit's rows and panels.
void RunGateUp(const KernelContext& ctx, const FfnJob& job, const QuantizedRows& q,
               const UnitPlace& place, Rounding act, float* h) {
  const PackedMatrix &gate = job.w->gate, &up = job.w->up;
  const int64_t f = gate.n();
  for (int64_t p0 = place.panel; p0 < place.panel + place.num_panels; p0 += kPairs) {
    const int64_t num = std::min(kPairs, place.panel + place.num_panels - p0);
    PanelUnit unit = {.format = PanelFormatOf(gate.format()), .k = gate.k(), .m = place.num_rows};
    unit.num_panels = static_cast<int>(2 * num);
    unit.pairs = true;
    for (int64_t p = 0; p < num; ++p) {
      unit.w[2 * p] = gate.panel(p0 + p);
      unit.w[2 * p + 1] = up.panel(p0 + p);
    }
    const int64_t first = job.row != nullptr ? 0 : place.row;
    if (IsQuantized(gate.format())) {
      unit.q = q.data + first * q.stride;
      unit.ldq = q.stride;
    } else {
      unit.x = job.x + first * job.ldx;
      unit.ldx = job.ldx;
    }
    unit.row = job.row != nullptr ? job.row + place.row : nullptr;
    ctx.table->swiglu_unit(unit, h + place.row * f + p0 * kPanel, f,
                           std::min(num * kPanel, f - p0 * kPanel), act == Rounding::kBf16);
  }
}

// One more than the last row of x that the job reads.
int64_t NumRows(const FfnJob& job) {
  if (job.row == nullptr || job.m == 0) return job.m;
  return *std::max_element(job.row, job.row + job.m) + 1;
}

}  // namespace

FfnWeights::FfnWeights(WeightFormat format, int64_t hidden_size, int64_t intermediate_size) {
  const int64_t d = hidden_size, f = intermediate_size;
  const int64_t wide = PackedMatrix::Bytes(format, f, d), last = PackedMatrix::Bytes(format, d, f);
  const auto memory = std::make_shared<Buffer>(static_cast<size_t>(2 * wide + last));
  gate = PackedMatrix(format, f, d, memory, 0);
  up = PackedMatrix(format, f, d, memory, wide);
  down = PackedMatrix(format, d, f, memory, 2 * wide);
}

int64_t GroupedFfnScratch(std::span<const FfnJob> jobs) {
  int64_t floats = 0;
  for (const FfnJob& job : jobs) floats += job.m * job.w->gate.n();
  return floats;
}

void GroupedFfn(const KernelContext& ctx, std::span<const FfnJob> jobs, Rounding act,
                Rounding round, float* scratch) {
  absl::InlinedVector<MatMulJob, 64> down;
  absl::InlinedVector<int64_t, 64> input;  // of quantised jobs
  QuantizedInputs inputs;
  float* h = scratch;
  for (const FfnJob& job : jobs) {
    const FfnWeights& w = *job.w;
    ATL_DCHECK(w.gate.n() == w.up.n() && w.gate.k() == w.up.k() &&
               w.gate.format() == w.up.format() && w.down.k() == w.gate.n());
    const int64_t f = w.gate.n();
    input.push_back(
        IsQuantized(w.gate.format()) ? inputs.Add(job.x, job.ldx, w.gate.k(), NumRows(job)) : 0);
    down.push_back({.w = &w.down,
                    .x = h,
                    .ldx = f,
                    .m = job.m,
                    .y = job.out,
                    .ldy = job.ldo,
                    .rounding = round});
    h += job.m * f;
  }
  inputs.Run(ctx);
  const UnitGrid grid = MakeGrid(NumSlots(ctx), [&](UnitGrid& g) {
    for (const FfnJob& job : jobs)
      g.Add(job.w->gate.num_panels(), 2 * job.w->gate.panel_bytes(), job.m);
  });
  For(ctx, grid.size(), [&](int64_t i) {
    const UnitPlace place = grid.At(i);
    const FfnJob& job = jobs[place.job];
    const bool quantized = IsQuantized(job.w->gate.format());
    RunGateUp(ctx, job, quantized ? inputs.At(input[place.job]) : QuantizedRows{}, place, act,
              scratch + (down[place.job].x - scratch));
  });
  MatMul(ctx, down);
}

}  // namespace atl::kernels
