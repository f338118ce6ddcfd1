#include "kernels/mla.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/table.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

static_assert(kBlockKeys == kCacheBlock && kSegmentKeys == kSegment);

int64_t NumSegments(const MlaRow& row) { return row.position / kSegment + 1; }

// How the work is cut. A unit is a group of heads of one row: all its segments one after another, or, where there are too few such
// units for the threads, one segment each.
struct Plan {
  int64_t groups = 0;  // of kUnitHeads heads
  int64_t ldo = 0;
  bool split = false;
  int64_t units = 0;
  int64_t state_floats = 0;  // of one softmax state
  int64_t slot_floats = 0;   // of one thread: the transposed query, a segment's scratch, two states
};

Plan MakePlan(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows) {
  Plan plan;
  const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  plan.groups = (shape.num_heads + kUnitHeads - 1) / kUnitHeads;
  plan.ldo = RoundUp16(r);
  plan.units = static_cast<int64_t>(rows.size()) * plan.groups;
  plan.state_floats = 2 * kUnitHeads + kUnitHeads * plan.ldo;
  plan.slot_floats = kUnitHeads * (r + dr) + MlaSegmentScratch(r, dr) + 2 * plan.state_floats;
  int64_t segments = 0;
  for (const MlaRow& row : rows) segments += NumSegments(row);
  plan.split = ctx.pool != nullptr && NumSlots(ctx) > 1 && plan.units < 4 * NumSlots(ctx) &&
               segments > static_cast<int64_t>(rows.size());
  if (plan.split) plan.units = segments * plan.groups;
  return plan;
}

SoftmaxState StateAt(float* base, int64_t ldo) {
  return {.m = base, .l = base + kUnitHeads, .o = base + 2 * kUnitHeads, .ldo = ldo};
}

// One group of heads of one row.
struct HeadGroup {
  int64_t row = 0;
  int64_t first = 0;
  int64_t heads = 0;
};

class Attention {
 public:
  Attention(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows, const float* q_latent,
            const float* q_rope, float* out, Rounding rounding, const Plan& plan)
      : ctx_(ctx), shape_(shape), rows_(rows), q_latent_(q_latent), q_rope_(q_rope), out_(out), rounding_(rounding), plan_(plan) {}

  HeadGroup Group(int64_t row, int64_t group) const {
    const int64_t first = group * kUnitHeads;
    return {.row = row, .first = first, .heads = std::min<int64_t>(kUnitHeads, shape_.num_heads - first)};
  }

  // Fills `state` with segment `segment`; `scratch` holds the transposed query, then the kernel's own.
  void Segment(const HeadGroup& g, int64_t segment, const SoftmaxState& state, float* scratch) const {
    const int64_t r = shape_.kv_lora_rank, dr = shape_.qk_rope_head_dim;
    SegmentUnit unit = {.q = scratch, .heads = g.heads, .r = r, .dr = dr, .scale = shape_.softmax_scale};
    unit.bf16 = shape_.cache_type == DType::kBf16;
    unit.block = reinterpret_cast<const void* const*>(rows_[g.row].block);
    unit.begin = segment * kSegment;
    unit.end = std::min<int64_t>(unit.begin + kSegment, rows_[g.row].position + int64_t{1});
    ctx_.table->mla_segment(unit, state, scratch + kUnitHeads * (r + dr));
  }

  // q [heads / 16][R + Dr][16] from q_latent and q_rope of the group.
  void Transpose(const HeadGroup& g, float* q) const {
    const int64_t r = shape_.kv_lora_rank, dr = shape_.qk_rope_head_dim;
    for (int64_t h = 0; h < RoundUp16(g.heads); ++h) {
      float* to = q + h / 16 * (r + dr) * 16 + h % 16;
      const int64_t vector = g.row * shape_.num_heads + g.first + h;
      const bool real = h < g.heads;
      for (int64_t i = 0; i < r; ++i) to[i * 16] = real ? q_latent_[vector * r + i] : 0;
      for (int64_t i = 0; i < dr; ++i) to[(r + i) * 16] = real ? q_rope_[vector * dr + i] : 0;
    }
  }

  void Finish(const HeadGroup& g, const SoftmaxState& state) const {
    const int64_t r = shape_.kv_lora_rank;
    float* out = out_ + (g.row * shape_.num_heads + g.first) * r;
    ctx_.table->mla_finish(g.heads, r, state, out, rounding_ == Rounding::kBf16);
  }

  // All segments of a group on one thread.
  void RunWhole(const HeadGroup& g, float* slot) const {
    float* scratch = slot + 2 * plan_.state_floats;
    const SoftmaxState into = StateAt(slot, plan_.ldo), next = StateAt(slot + plan_.state_floats, plan_.ldo);
    Transpose(g, scratch);
    Segment(g, 0, into, scratch);
    for (int64_t s = 1; s < NumSegments(rows_[g.row]); ++s) {
      Segment(g, s, next, scratch);
      ctx_.table->mla_merge(g.heads, shape_.kv_lora_rank, into, next);
    }
    Finish(g, into);
  }

  // A segment each, into states of their own; then a merge in ascending order.
  void RunSplit(float* slots, float* states) const {
    auto segment_at = [&](int64_t unit, HeadGroup* group) {
      for (int64_t row = 0;; ++row) {
        const int64_t units = NumSegments(rows_[row]) * plan_.groups;
        if (unit < units) {
          *group = Group(row, unit / NumSegments(rows_[row]));
          return unit % NumSegments(rows_[row]);
        }
        unit -= units;
      }
    };
    ForSlots(ctx_, plan_.units, [&](int slot, int64_t unit) {
      HeadGroup group;
      const int64_t segment = segment_at(unit, &group);
      float* scratch = slots + slot * plan_.slot_floats + 2 * plan_.state_floats;
      Transpose(group, scratch);
      Segment(group, segment, StateAt(states + unit * plan_.state_floats, plan_.ldo), scratch);
    });
    float* state = states;
    for (int64_t row = 0; row < static_cast<int64_t>(rows_.size()); ++row) {
      for (int64_t group = 0; group < plan_.groups; ++group) {
        const HeadGroup g = Group(row, group);
        const SoftmaxState into = StateAt(state, plan_.ldo);
        for (int64_t s = 1; s < NumSegments(rows_[row]); ++s) {
          ctx_.table->mla_merge(g.heads, shape_.kv_lora_rank, into, StateAt(state + s * plan_.state_floats, plan_.ldo));
        }
        Finish(g, into);
        state += NumSegments(rows_[row]) * plan_.state_floats;
      }
    }
  }

 private:
  const KernelContext& ctx_;
  const MlaShape& shape_;
  const std::span<const MlaRow> rows_;
  const float* const q_latent_;
  const float* const q_rope_;
  float* const out_;
  const Rounding rounding_;
  const Plan& plan_;
};

}  // namespace

int64_t CacheBlockBytes(const MlaShape& shape) {
  return kCacheBlock * (shape.kv_lora_rank + shape.qk_rope_head_dim) * DTypeBytes(shape.cache_type);
}

void StoreLatent(const MlaShape& shape, const float* c_kv, const float* k_rope, std::byte* block, int64_t position_in_block) {
  ATL_DCHECK(position_in_block >= 0 && position_in_block < kCacheBlock);
  const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  if (shape.cache_type == DType::kBf16) {
    Bf16* to = reinterpret_cast<Bf16*>(block) + position_in_block * (r + dr);
    for (int64_t i = 0; i < r; ++i) to[i] = F32ToBf16(c_kv[i]);
    for (int64_t i = 0; i < dr; ++i) to[r + i] = F32ToBf16(k_rope[i]);
    return;
  }
  ATL_DCHECK(shape.cache_type == DType::kF32);
  float* to = reinterpret_cast<float*>(block) + position_in_block * (r + dr);
  std::memcpy(to, c_kv, r * sizeof(float));
  std::memcpy(to + r, k_rope, dr * sizeof(float));
}

int64_t MlaScratch(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows) {
  const Plan plan = MakePlan(ctx, shape, rows);
  return NumSlots(ctx) * plan.slot_floats + (plan.split ? plan.units * plan.state_floats : 0);
}

void MlaAttend(const KernelContext& ctx, const MlaShape& shape, std::span<const MlaRow> rows, const float* q_latent,
               const float* q_rope, float* out, Rounding rounding, float* scratch) {
  const Plan plan = MakePlan(ctx, shape, rows);
  const Attention attention(ctx, shape, rows, q_latent, q_rope, out, rounding, plan);
  if (plan.split) {
    attention.RunSplit(scratch, scratch + NumSlots(ctx) * plan.slot_floats);
    return;
  }
  ForSlots(ctx, plan.units, [&](int slot, int64_t unit) {
    attention.RunWhole(attention.Group(unit / plan.groups, unit % plan.groups), scratch + slot * plan.slot_floats);
  });
}

}  // namespace atl::kernels
