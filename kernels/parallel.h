// Loops over the pool of a context. Private to kernels/.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "kernels/context.h"

namespace atl::kernels {

inline int NumSlots(const KernelContext& ctx) {
  return ctx.pool != nullptr ? ctx.pool->num_threads() : 1;
}

// fn(i) once for each i in [0, count), on any thread of the pool.
inline void For(const KernelContext& ctx, int64_t count, absl::FunctionRef<void(int64_t)> fn) {
  if (ctx.pool != nullptr && count > 1) {
    ctx.pool->ParallelFor(count, fn);
  } else {
    for (int64_t i = 0; i < count; ++i) fn(i);
  }
}

// fn(slot, i) once for each i: no two calls with the same slot < NumSlots(ctx) run at the same
// time, so that each slot may have scratch of its own.
inline void ForSlots(const KernelContext& ctx, int64_t count,
                     absl::FunctionRef<void(int, int64_t)> fn) {
  std::atomic<int64_t> next{0};
  For(ctx, NumSlots(ctx), [&](int64_t slot) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      fn(static_cast<int>(slot), i);
  });
}

// fn(begin, end) over pieces of [0, n) that are multiples of 16 long. Short ranges stay on the
// calling thread: a loop over the pool costs some microseconds, as much as 16 K elements.
inline void ForRange(const KernelContext& ctx, int64_t n,
                     absl::FunctionRef<void(int64_t, int64_t)> fn) {
  constexpr int64_t kPiece = 16384;
  For(ctx, n <= 2 * kPiece ? 1 : (n + kPiece - 1) / kPiece, [&](int64_t i) {
    if (n <= 2 * kPiece) return fn(0, n);
    fn(i * kPiece, (i + 1) * kPiece < n ? (i + 1) * kPiece : n);
  });
}

// fn(row) for each row, `work` elements of light work in each.
inline void ForRows(const KernelContext& ctx, int64_t rows, int64_t work,
                    absl::FunctionRef<void(int64_t)> fn) {
  constexpr int64_t kPiece = 16384;
  const int64_t step = work < kPiece ? (kPiece + work) / (work + 1) : 1;
  if (rows <= 2 * step) {
    for (int64_t i = 0; i < rows; ++i) fn(i);
    return;
  }
  For(ctx, (rows + step - 1) / step, [&](int64_t piece) {
    for (int64_t i = piece * step; i < rows && i < (piece + 1) * step; ++i) fn(i);
  });
}

}  // namespace atl::kernels
