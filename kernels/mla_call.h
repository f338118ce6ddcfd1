// What the ways of doing MlaAttend's work have in common. Private to kernels/.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/latent.h"
#include "kernels/mla_paths.h"
#include "kernels/softmax_state.h"

namespace atl::kernels {

inline constexpr int64_t kSegmentBlocks = kSegment / kCacheBlock;

// A call's sizes, in elements.
struct MlaSizes {
  explicit MlaSizes(const MlaCall& call)
      : heads(call.shape.num_heads),
        lanes(RoundUp16(heads)),
        r(call.shape.kv_lora_rank),
        width(r + call.shape.qk_rope_head_dim),
        ldk(RoundUp16(width)),
        ldo(RoundUp16(r)) {}
  const int64_t heads, lanes, r, width, ldk, ldo;

  int64_t State(int64_t num_heads) const { return StateFloats(num_heads, ldo); }
};

// Positions of block `block` that the row attends; 0 behind its own.
inline int64_t KeysIn(const MlaRow& row, int64_t block) {
  return std::clamp<int64_t>(row.position + int64_t{1} - block * kCacheBlock, 0, kCacheBlock);
}

// q [heads / 16][R + Dr][16] of heads [first, first + heads) of a row; lanes beyond the last head
// are 0.
inline void TransposeQuery(const MlaCall& call, int64_t row, int64_t first, int64_t heads,
                           float* q) {
  const int64_t r = call.shape.kv_lora_rank, dr = call.shape.qk_rope_head_dim;
  for (int64_t h = 0; h < RoundUp16(heads); ++h) {
    float* to = q + h / 16 * (r + dr) * 16 + h % 16;
    const int64_t vector = row * call.shape.num_heads + first + h;
    const bool real = h < heads;
    for (int64_t i = 0; i < r; ++i) to[i * 16] = real ? call.q_latent[vector * r + i] : 0;
    for (int64_t i = 0; i < dr; ++i) to[(r + i) * 16] = real ? call.q_rope[vector * dr + i] : 0;
  }
}

// The state of heads from `head`, a multiple of 16, on.
inline SoftmaxState HeadsFrom(const SoftmaxState& state, int64_t head) {
  return {
      .m = state.m + head, .l = state.l + head, .o = state.o + head * state.ldo, .ldo = state.ldo};
}

// `heads` heads of the row from `first` on, whose sums are in `state`.
inline void FinishHeads(const MlaCall& call, int64_t row, int64_t first, int64_t heads,
                        const SoftmaxState& state) {
  const int64_t r = call.shape.kv_lora_rank;
  float* out = call.out + (row * call.shape.num_heads + first) * r;
  call.ctx.table->mla_finish(heads, r, state, out, call.rounding == Rounding::kBf16);
}

}  // namespace atl::kernels
