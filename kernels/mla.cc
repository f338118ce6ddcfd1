#include "kernels/mla.h"

#include "kernels/cpu/table.h"
#include "kernels/mla_paths.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

static_assert(kBlockKeys == kCacheBlock && kSegmentKeys == kSegment);

// Whether all threads work on one row after another rather than each on rows of its own. Four
// parallel loops a window cost some 10 microseconds: less than 4096 scores are sooner done by one
// thread.
bool BySegments(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows) {
  const int64_t threads = NumSlots(ctx), num_rows = static_cast<int64_t>(rows.size());
  if (threads == 1 || num_rows * ((shape.num_heads + 15) / 16) >= 2 * threads) return false;
  int64_t scores = 0;
  for (const MlaRow& row : rows) scores += (row.position + int64_t{1}) * shape.num_heads;
  return scores >= 4096;
}

}  // namespace

int64_t MlaScratch(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows) {
  const MlaCall call = {.ctx = ctx, .shape = shape, .rows = rows};
  return BySegments(ctx, shape, rows) ? MlaBySegmentsScratch(call) : MlaByRowsScratch(call);
}

void MlaAttend(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows,
               const float* q_latent, const float* q_rope, float* out, Rounding rounding,
               float* scratch) {
  const MlaCall call = {.ctx = ctx,
                        .shape = shape,
                        .rows = rows,
                        .q_latent = q_latent,
                        .q_rope = q_rope,
                        .out = out,
                        .rounding = rounding};
  if (BySegments(ctx, shape, rows)) {
    MlaBySegments(call, scratch);
  } else {
    MlaByRows(call, scratch);
  }
}

}  // namespace atl::kernels
