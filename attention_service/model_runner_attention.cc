// A layer's attention: queries, latents, scores, outputs.
#include <cstring>

#include "attention_service/micro_batch.h"
#include "attention_service/model_runner.h"
#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/mla.h"
#include "kernels/mla_expanded.h"

namespace atl::attention {
namespace {

// q_a_layernorm and kv_a_layernorm take this whatever rms_norm_eps says (docs/numerics.md).
constexpr float kLatentNormEps = 1e-6f;

}  // namespace

void ModelRunner::ProjectQueries(const LayerWeights& w, MicroBatch* mb) {
  const model::ModelConfig& c = weights_->config;
  const int64_t n = mb->n, d = c.hidden_size, heads = c.num_attention_heads;
  const int64_t dn = c.qk_nope_head_dim, dr = c.qk_rope_head_dim, r = c.kv_lora_rank;
  const int64_t q_row = heads * (dn + dr);
  mb->jobs.clear();
  mb->jobs.push_back(
      {.w = &w.kv_a, .x = mb->x.data(), .ldx = d, .m = n, .y = mb->kv.data(), .ldy = r + dr});
  if (c.q_lora_rank == 0) {
    mb->jobs.push_back(
        {.w = &w.q_proj, .x = mb->x.data(), .ldx = d, .m = n, .y = mb->q.data(), .ldy = q_row});
    kernels::MatMul(ctx_, mb->jobs);
  } else {
    const int64_t rq = c.q_lora_rank;
    mb->jobs.push_back(
        {.w = &w.q_a, .x = mb->x.data(), .ldx = d, .m = n, .y = mb->q_a.data(), .ldy = rq});
    kernels::MatMul(ctx_, mb->jobs);
    kernels::RmsNorm(ctx_, mb->q_a.data(), rq, w.q_a_norm.data(), kLatentNormEps, n, rq,
                     mb->q_a.data(), rq, act_);
    kernels::MatMul(
        ctx_,
        kernels::MatMulJob{
            .w = &w.q_b, .x = mb->q_a.data(), .ldx = rq, .m = n, .y = mb->q.data(), .ldy = q_row});
  }
  for (int64_t i = 0; i < n * heads; ++i) {
    std::memcpy(mb->q_rope.data() + i * dr, mb->q.data() + i * (dn + dr) + dn, dr * sizeof(float));
  }
  kernels::ApplyRope(ctx_, *weights_->rope, mb->positions.data(), n, heads, mb->q_rope.data(),
                     heads * dr, dr, act_);
  kernels::RoundRange(ctx_, mb->q.data(), n * q_row, act_);
  mb->jobs.clear();
  for (const AttentionPiece& piece : mb->pieces) {
    if (piece.expanded) continue;
    for (int64_t h = 0; h < heads; ++h) {
      mb->jobs.push_back({.w = &w.w_uk[h],
                          .x = mb->q.data() + piece.begin * q_row + h * (dn + dr),
                          .ldx = q_row,
                          .m = piece.count,
                          .y = mb->q_latent.data() + (piece.begin * heads + h) * r,
                          .ldy = heads * r,
                          .rounding = act_});
    }
  }
  kernels::MatMul(ctx_, mb->jobs);
}

void ModelRunner::StoreLatents(int64_t layer,
                               std::span<const std::span<const BlockId>> block_tables,
                               MicroBatch* mb) {
  const LayerWeights& w = weights_->layers[layer];
  const model::ModelConfig& c = weights_->config;
  const int64_t r = c.kv_lora_rank, dr = c.qk_rope_head_dim, row = r + dr;
  kernels::RmsNorm(ctx_, mb->kv.data(), row, w.kv_a_norm.data(), kLatentNormEps, mb->n, r,
                   mb->kv.data(), row, kernels::Rounding::kNone);
  kernels::ApplyRope(ctx_, *weights_->rope, mb->positions.data(), mb->n, 1, mb->kv.data() + r, row,
                     dr, kernels::Rounding::kNone);
  for (int64_t t = 0; t < mb->n; ++t) {
    const int32_t position = mb->positions[t];
    const BlockId block = block_tables[mb->rows[t].seq_idx][position / kernels::kCacheBlock];
    const float* values = mb->kv.data() + t * row;
    kernels::StoreLatent(shape_, values, values + r, cache_->Block(layer, block),
                         position % kernels::kCacheBlock);
  }
  // Where each sequence's blocks of this layer lie, once per sequence of the micro-batch.
  mb->blocks.clear();
  mb->first_block.assign(block_tables.size(), SIZE_MAX);
  for (const StepRow& step_row : mb->rows) {
    size_t& first = mb->first_block[step_row.seq_idx];
    if (first != SIZE_MAX) continue;
    first = mb->blocks.size();
    for (BlockId block : block_tables[step_row.seq_idx])
      mb->blocks.push_back(cache_->Block(layer, block));
  }
  mb->mla_rows.resize(mb->n);
  for (int64_t t = 0; t < mb->n; ++t) {
    mb->mla_rows[t] = {.block = mb->blocks.data() + mb->first_block[mb->rows[t].seq_idx],
                       .position = mb->positions[t]};
  }
}

// Leaves the product by W_UV to do, in mb->jobs.
void ModelRunner::AttendAbsorbed(const LayerWeights& w, const AttentionPiece& piece,
                                 MicroBatch* mb) {
  const model::ModelConfig& c = weights_->config;
  const int64_t heads = c.num_attention_heads, r = c.kv_lora_rank, dv = c.v_head_dim;
  const auto rows =
      std::span<const kernels::MlaRow>(mb->mla_rows)
          .subspan(static_cast<size_t>(piece.begin), static_cast<size_t>(piece.count));
  const size_t scratch = kernels::MlaScratch(ctx_, shape_, rows);
  if (mb->scratch.size() < scratch) mb->scratch.resize(scratch);
  float* const o_latent = mb->o_latent.data() + piece.begin * heads * r;
  kernels::MlaAttend(ctx_, shape_, rows, mb->q_latent.data() + piece.begin * heads * r,
                     mb->q_rope.data() + piece.begin * heads * c.qk_rope_head_dim, o_latent, act_,
                     mb->scratch.data());
  for (int64_t h = 0; h < heads; ++h) {
    mb->jobs.push_back({.w = &w.w_uv[h],
                        .x = o_latent + h * r,
                        .ldx = heads * r,
                        .m = piece.count,
                        .y = mb->o.data() + (piece.begin * heads + h) * dv,
                        .ldy = heads * dv,
                        .rounding = act_});
  }
}

void ModelRunner::AttendExpanded(const LayerWeights& w, const AttentionPiece& piece,
                                 MicroBatch* mb) {
  ATL_DCHECK(!w.w_k.empty());
  const model::ModelConfig& c = weights_->config;
  const int64_t heads = c.num_attention_heads, dn = c.qk_nope_head_dim, dr = c.qk_rope_head_dim;
  const kernels::ExpandedShape shape = {
      .latent = shape_, .qk_nope_head_dim = dn, .v_head_dim = c.v_head_dim};
  const kernels::ExpandedRun run = {.block = mb->mla_rows[piece.begin].block,
                                    .first = mb->positions[piece.begin],
                                    .num_rows = static_cast<int32_t>(piece.count)};
  const size_t scratch = kernels::MlaExpandedScratch(ctx_, shape, run);
  if (mb->scratch.size() < scratch) mb->scratch.resize(scratch);
  kernels::MlaExpanded(ctx_, shape, {.w_uk = w.w_k, .w_uv = w.w_uv}, run,
                       mb->q.data() + piece.begin * heads * (dn + dr),
                       mb->q_rope.data() + piece.begin * heads * dr,
                       mb->o.data() + piece.begin * heads * c.v_head_dim, act_, mb->scratch.data());
}

void ModelRunner::Attention(int64_t layer, std::span<const std::span<const BlockId>> block_tables,
                            MicroBatch* mb) {
  const LayerWeights& w = weights_->layers[layer];
  const model::ModelConfig& c = weights_->config;
  const int64_t n = mb->n, d = c.hidden_size, heads = c.num_attention_heads, dv = c.v_head_dim;
  kernels::RmsNorm(ctx_, mb->hidden.data(), d, w.input_norm.data(), c.rms_norm_eps, n, d,
                   mb->x.data(), d, act_);
  ProjectQueries(w, mb);
  StoreLatents(layer, block_tables, mb);
  mb->jobs.clear();
  for (const AttentionPiece& piece : mb->pieces) {
    if (piece.expanded) {
      AttendExpanded(w, piece, mb);
    } else {
      AttendAbsorbed(w, piece, mb);
    }
  }
  kernels::MatMul(ctx_, mb->jobs);
  kernels::MatMul(ctx_, kernels::MatMulJob{.w = &w.o_proj,
                                           .x = mb->o.data(),
                                           .ldx = heads * dv,
                                           .m = n,
                                           .y = mb->out.data(),
                                           .ldy = d});
  kernels::AddInPlace(ctx_, mb->hidden.data(), mb->out.data(), n * d);
}

}  // namespace atl::attention
