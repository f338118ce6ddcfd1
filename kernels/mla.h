// Multi-head latent attention over a paged latent cache, absorbed form: the only one the profiles
// use but for those with +expanded (mla_expanded.h). Source: DeepSeek-V2 paper (arXiv 2405.04434)
// section 2.1; DeepSeek-V3 inference/model.py `MLA`, "absorb".
#pragma once

#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "kernels/context.h"

namespace atl::kernels {

inline constexpr int64_t kCacheBlock = 64;  // positions in a block of latent cache
inline constexpr int64_t kSegment = 1024;   // positions in a segment of the online softmax

struct MlaShape {
  int64_t num_heads = 0;           // H
  int64_t kv_lora_rank = 0;        // R
  int64_t qk_rope_head_dim = 0;    // Dr
  float softmax_scale = 0;         // (Dn + Dr)^-1/2 times YarnSoftmaxFactor
  DType cache_type = DType::kF32;  // kF32, kBf16 or kF8E4M3
};

// Bytes of one position of one layer, c_kv then k_rope.
//   kF32, kBf16  R + Dr values as named.
//   kF8E4M3      DeepSeek's layout (FlashMLA's "V32" cache): R codes, padded to a multiple of 4; a
//                float32 scale for each 128 of them; Dr bf16. 656 bytes for 512 + 64. A value is
//                code * scale, rounded to float32; scale = max |c_kv| / 448 over its 128, code =
//                c_kv * (448 / max |c_kv|) to the nearest e4m3, ties to even, each operation in
//                float32. A maximum under 2^-100 counts as 0: scale and codes are 0. 128 with NaN
//                or infinity among them have a scale of NaN.
int64_t CachePositionBytes(const MlaShape& shape);
// Of one block of one layer: 64 positions, one after another.
int64_t CacheBlockBytes(const MlaShape& shape);

// Writes one position into a block: c_kv [R] (already normed) and k_rope [Dr] (already rotated),
// rounded to the cache type. position_in_block in [0, 64).
void StoreLatent(const MlaShape& shape, const float* c_kv, const float* k_rope, std::byte* block,
                 int64_t position_in_block);

// One query row: a token at `position` of a sequence whose cache blocks of this layer are block[0],
// block[1], ...; it attends positions 0..position (its own, already stored, included). blocks must
// cover position.
struct MlaRow {
  const std::byte* const* block = nullptr;  // [position / 64 + 1]
  int32_t position = 0;
};

// Floats of scratch that MlaAttend needs.
int64_t MlaScratch(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows);

// q_latent [T, H, R]: W_UK applied;  q_rope [T, H, Dr]: rotated;
// out [T, H, R] = round(softmax(scores) c_kv)
//
// Every key and value is read through the cache's rounding. Bits of a row depend on its own query
// and keys alone:
//
// - score[h, s] = scale * (fma chain over R of q_latent * c_kv, continued over Dr of
//   q_rope * k_rope).
//
// - Blocks of 64 positions from position 0; online softmax in ascending blocks within segments of
//   1024 positions: with the block the maximum m becomes m', sum l and accumulators o (from
//   m = -inf, l = o = 0) are multiplied by Exp(m - m'), then for each of its positions, ascending,
//   p = Exp(score - m'), l = l + p, o = fma(p, c_kv, o).
//
// - Segments are always formed, and merged in ascending order, whether or not they ran in
//   parallel: with a = Exp(m0 - m'), b = Exp(m1 - m'), l = fma(l1, b, l0 a),
//   o = fma(o1, b, o0 a); one division by l at the end.
void MlaAttend(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows,
               const float* q_latent, const float* q_rope, float* out, Rounding rounding,
               float* scratch);

}  // namespace atl::kernels
