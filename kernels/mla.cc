#include "kernels/mla.h"

#include <algorithm>

#include "kernels/cpu/table.h"
#include "kernels/mla_paths.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

static_assert(kBlockKeys == kCacheBlock && kSegmentKeys == kSegment);

enum class Path { kRows, kSegments, kWholeSegments };

// Whether the rows' segments, dealt out whole, keep all threads busy most of the time.
bool SegmentsKeepBusy(int64_t threads, std::span<const MlaRow> rows) {
  int64_t full = 0, longest_rest = 0, keys = 0;
  for (const MlaRow& row : rows) {
    const int64_t own = row.position + int64_t{1};
    keys += own;
    full += own / kSegment;
    longest_rest = std::max(longest_rest, own % kSegment);
  }
  const int64_t rounds = full / threads;
  const int64_t last = full % threads == 0 ? longest_rest : kSegment;
  return 5 * keys >= 4 * threads * (rounds * kSegment + last);
}

// All threads work on one row after another if each could not have rows, or heads of them, of its
// own. Loops over the threads cost some 10 microseconds a row: less than 4096 scores are sooner
// done by one thread.
Path Choose(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows) {
  const int64_t threads = NumSlots(ctx), num_rows = static_cast<int64_t>(rows.size());
  if (threads == 1 || num_rows >= 2 * threads) return Path::kRows;
  int64_t scores = 0;
  for (const MlaRow& row : rows) scores += (row.position + int64_t{1}) * shape.num_heads;
  if (scores < 4096) return Path::kRows;
  if (num_rows == 1 && SegmentsKeepBusy(threads, rows)) return Path::kWholeSegments;
  return num_rows * ((shape.num_heads + 15) / 16) >= 2 * threads ? Path::kRows : Path::kSegments;
}

}  // namespace

int64_t MlaScratch(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows) {
  const MlaCall call = {.ctx = ctx, .shape = shape, .rows = rows};
  switch (Choose(ctx, shape, rows)) {
    case Path::kRows:
      return MlaByRowsScratch(call);
    case Path::kSegments:
      return MlaBySegmentsScratch(call);
    case Path::kWholeSegments:
      return MlaByWholeSegmentsScratch(call);
  }
  return 0;
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
  switch (Choose(ctx, shape, rows)) {
    case Path::kRows:
      return MlaByRows(call, scratch);
    case Path::kSegments:
      return MlaBySegments(call, scratch);
    case Path::kWholeSegments:
      return MlaByWholeSegments(call, scratch);
  }
}

}  // namespace atl::kernels
