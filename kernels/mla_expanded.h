// Multi-head latent attention in its expanded form: every head's keys and values are made from the
// cached latents, once for all query rows. For long prompts: a key costs a row Dn + Dr + Dv
// products a head instead of the absorbed form's 2 R + Dr. Source: DeepSeek-V3 inference/model.py
// `MLA`, "naive".
#pragma once

#include <cstdint>
#include <span>

#include "kernels/mla.h"
#include "kernels/packed_matrix.h"

namespace atl::kernels {

struct ExpandedShape {
  MlaShape latent;
  int64_t qk_nope_head_dim = 0;  // Dn
  int64_t v_head_dim = 0;        // Dv
};

// The parts of kv_b_proj, a matrix a head.
struct ExpandedWeights {
  std::span<const PackedMatrix> w_uk;  // H of [Dn, R]
  std::span<const PackedMatrix> w_uv;  // H of [Dv, R]
};

// Query rows: consecutive positions of one sequence, whose latents are all stored. Row i attends
// positions 0..first + i. block as in MlaRow, as far as the last row's.
struct ExpandedRun {
  const std::byte* const* block = nullptr;
  int32_t first = 0;
  int32_t num_rows = 0;  // at least 1
};

// Floats of scratch that MlaExpanded needs.
int64_t MlaExpandedScratch(const KernelContext& ctx, const ExpandedShape& shape,
                           const ExpandedRun& run);

// q [T, H, Dn + Dr], whose first Dn values a head are read;  q_rope [T, H, Dr]: rotated;
// out [T, H, Dv] = round(softmax(scores) v)
//
// c = round(c_kv as the cache has it); k_nope[h] = round(W_UK[h] c), v[h] = round(W_UV[h] c), as
// MatMul computes them; k_rope as the cache has it. From there on the bits are those that MlaAttend
// defines, with each head's own keys: score[h, s] = scale * (fma chain over Dn of q * k_nope,
// continued over Dr of q_rope * k_rope), and v in the place of c_kv. So they depend on a row's own
// query and keys alone, not on the rows beside it.
void MlaExpanded(const KernelContext& ctx, const ExpandedShape& shape,
                 const ExpandedWeights& weights, const ExpandedRun& run, const float* q,
                 const float* q_rope, float* out, Rounding rounding, float* scratch);

}  // namespace atl::kernels
