#include "kernels/mla_expanded.h"

#include <algorithm>
#include <limits>

#include "absl/container/inlined_vector.h"
#include "base/check.h"
#include "kernels/cpu/table.h"
#include "kernels/latent.h"
#include "kernels/matmul.h"
#include "kernels/parallel.h"
#include "kernels/softmax_state.h"

namespace atl::kernels {
namespace {

constexpr int64_t kBlocks = kSegment / kCacheBlock;  // of a segment
constexpr int64_t kGroupRows = kCacheBlock;          // query rows in a unit at most: a block's
static_assert(kGroupRows <= kUnitHeads && kGroupRows % 16 == 0);
// Heads whose keys and values are in memory at a time: with a segment's positions 21 MB of V3's.
constexpr int64_t kHeadsAtOnce = 16;
// Rows that share a tile where each has one key more than the row before.
constexpr int64_t kStairRows = 6;

// Query rows of one block: positions [first, first + rows).
struct RowGroup {
  int64_t first = 0;
  int64_t rows = 0;
  int64_t block() const { return first / kCacheBlock; }
};

// A call's sizes, and where its parts lie in scratch, in floats.
struct Sizes {
  Sizes(const KernelContext& ctx, const ExpandedShape& shape, const ExpandedRun& run)
      : heads(shape.latent.num_heads),
        r(shape.latent.kv_lora_rank),
        dn(shape.qk_nope_head_dim),
        dr(shape.latent.qk_rope_head_dim),
        dk(dn + dr),
        dv(shape.v_head_dim),
        ldv(RoundUp16(dv)),
        first(run.first),
        end(first + run.num_rows),
        groups((end - 1) / kCacheBlock - first / kCacheBlock + 1),
        held_keys(std::min(kSegment, end)),
        held_heads(std::min(kHeadsAtOnce, heads)),
        state(StateFloats(kGroupRows, ldv)),
        keys_at(held_keys * (r + dr)),
        values_at(keys_at + held_heads * held_keys * dk),
        totals_at(values_at + held_heads * held_keys * ldv),
        slots_at(totals_at + heads * groups * state),
        slot(kGroupRows * dk + 2 * kGroupRows * kCacheBlock + kGroupRows + state),
        total(slots_at + NumSlots(ctx) * slot) {}

  const int64_t heads, r, dn, dr, dk, dv, ldv;
  const int64_t first, end;  // positions of the rows
  const int64_t groups;
  const int64_t held_keys, held_heads;  // that have room at a time
  const int64_t state;
  const int64_t keys_at, values_at, totals_at, slots_at, slot, total;
};

// One thread's memory.
struct SlotScratch {
  SlotScratch(const Sizes& n, float* base)
      : q(base),
        scores(q + kGroupRows * n.dk),
        prob(scores + kGroupRows * kCacheBlock),
        keep(prob + kGroupRows * kCacheBlock),
        segment(StateAt(keep + kGroupRows, kGroupRows, n.ldv)) {}
  float *q, *scores, *prob, *keep;
  SoftmaxState segment;
};

class ExpandedRunner {
 public:
  ExpandedRunner(const KernelContext& ctx, const ExpandedShape& shape, const ExpandedRun& run,
                 Rounding rounding, float* base)
      : ctx_(ctx),
        table_(*ctx.table),
        shape_(shape),
        run_(run),
        rounding_(rounding),
        n_(ctx, shape, run),
        base_(base) {}

  void Run(const ExpandedWeights& weights, const float* q, const float* q_rope, float* out) {
    for (int64_t segment = 0; segment * kSegment < n_.end; ++segment) {
      const int64_t keys = std::min(kSegment, n_.end - segment * kSegment);
      ReadLatents(segment, keys);
      for (int64_t head = 0; head < n_.heads; head += n_.held_heads) {
        const int64_t heads = std::min(n_.held_heads, n_.heads - head);
        Expand(weights, head, heads, keys);
        Attend(segment, head, heads, q, q_rope);
      }
    }
    Finish(out);
  }

 private:
  // Of the head that is the i-th of those held.
  float* KeysOfHead(int64_t i) const { return base_ + n_.keys_at + i * n_.held_keys * n_.dk; }
  float* ValuesOfHead(int64_t i) const { return base_ + n_.values_at + i * n_.held_keys * n_.ldv; }
  SoftmaxState Total(int64_t head, int64_t group) const {
    float* at = base_ + n_.totals_at + (head * n_.groups + group) * n_.state;
    return StateAt(at, kGroupRows, n_.ldv);
  }
  RowGroup Group(int64_t i) const {
    const int64_t block = n_.first / kCacheBlock + i;
    const int64_t first = std::max(n_.first, block * kCacheBlock);
    return {.first = first, .rows = std::min(n_.end, (block + 1) * kCacheBlock) - first};
  }

  // Latents of a segment: [keys, R + Dr], the first R of each rounded as inputs of products are.
  void ReadLatents(int64_t segment, int64_t keys) {
    const int64_t width = n_.r + n_.dr;
    For(ctx_, (keys + kCacheBlock - 1) / kCacheBlock, [&](int64_t b) {
      float* to = base_ + b * kCacheBlock * width;
      const int64_t num = std::min(kCacheBlock, keys - b * kCacheBlock);
      table_.mla_widen(KeysOf(shape_.latent, run_.block[segment * kBlocks + b]), num, 0, width, to,
                       width);
      if (rounding_ != Rounding::kBf16) return;
      for (int64_t s = 0; s < num; ++s) table_.round_bf16(to + s * width, n_.r);
    });
  }

  // Keys [head][keys, Dn + Dr] and values [head][keys, ldv] of heads [first, first + heads).
  void Expand(const ExpandedWeights& weights, int64_t first, int64_t heads, int64_t keys) {
    const int64_t width = n_.r + n_.dr;
    absl::InlinedVector<MatMulJob, 2 * kHeadsAtOnce> jobs;
    for (int64_t i = 0; i < heads; ++i) {
      jobs.push_back({.w = &weights.w_uk[first + i],
                      .x = base_,
                      .ldx = width,
                      .m = keys,
                      .y = KeysOfHead(i),
                      .ldy = n_.dk,
                      .rounding = rounding_});
      jobs.push_back({.w = &weights.w_uv[first + i],
                      .x = base_,
                      .ldx = width,
                      .m = keys,
                      .y = ValuesOfHead(i),
                      .ldy = n_.ldv,
                      .rounding = rounding_});
    }
    MatMul(ctx_, jobs);
    For(ctx_, heads, [&](int64_t i) {
      float* to = KeysOfHead(i) + n_.dn;
      for (int64_t s = 0; s < keys; ++s)
        std::copy_n(base_ + s * width + n_.r, n_.dr, to + s * n_.dk);
    });
  }

  void Attend(int64_t segment, int64_t first, int64_t heads, const float* q, const float* q_rope) {
    // Groups before this segment are done. The longest come first, a head's one after another.
    const int64_t done = std::max<int64_t>(0, segment * kBlocks - n_.first / kCacheBlock);
    const int64_t left = n_.groups - done;
    ForSlots(ctx_, heads * left, [&](int slot, int64_t unit) {
      const int64_t i = unit / left, group = n_.groups - 1 - unit % left;
      const SlotScratch s(n_, base_ + n_.slots_at + slot * n_.slot);
      const SoftmaxState total = Total(first + i, group);
      const RowGroup rows = Group(group);
      TransposeQuery(rows, first + i, q, q_rope, s.q);
      RunSegment(segment, i, rows, s, segment == 0 ? total : s.segment);
      if (segment > 0) table_.mla_merge(rows.rows, n_.dv, total, s.segment);
    });
  }

  // to [rows / 16][Dn + Dr][16]: a lane is a row; lanes behind the last are 0.
  void TransposeQuery(const RowGroup& rows, int64_t head, const float* q, const float* q_rope,
                      float* to) const {
    const int64_t row = rows.first - n_.first;
    std::fill_n(to, RoundUp16(rows.rows) * n_.dk, 0.0f);
    for (int64_t t = 0; t < rows.rows; ++t) {
      const int64_t vector = (row + t) * n_.heads + head;
      float* lane = to + t / 16 * n_.dk * 16 + t % 16;
      for (int64_t i = 0; i < n_.dn; ++i) lane[i * 16] = q[vector * n_.dk + i];
      for (int64_t i = 0; i < n_.dr; ++i) lane[(n_.dn + i) * 16] = q_rope[vector * n_.dr + i];
    }
  }

  // Keys and values of the i-th of the heads held.
  void RunSegment(int64_t segment, int64_t i, const RowGroup& rows, const SlotScratch& s,
                  const SoftmaxState& state) const {
    BeginState(state, kGroupRows);
    std::fill_n(state.o, rows.rows * n_.ldv, 0.0f);
    for (int64_t b = 0; b < kBlocks && segment * kBlocks + b <= rows.block(); ++b) {
      const bool own = segment * kBlocks + b == rows.block();
      // Of the last row; in the rows' own block the first has `least`, each one more than the last.
      const int64_t least = own ? rows.first % kCacheBlock + 1 : kCacheBlock;
      const int64_t num = own ? least + rows.rows - 1 : kCacheBlock;
      const float* keys = KeysOfHead(i) + b * kCacheBlock * n_.dk;
      const float* values = ValuesOfHead(i) + b * kCacheBlock * n_.ldv;
      table_.mla_scores(s.q, RoundUp16(rows.rows), n_.dk, keys, n_.dk, num, s.scores, kGroupRows);
      for (int64_t key = least; key < num; ++key) {
        std::fill_n(s.scores + key * kGroupRows, key - least + 1,
                    -std::numeric_limits<float>::infinity());
      }
      for (int64_t t = 0; t < rows.rows; t += 16) {
        table_.mla_softmax(s.scores + t, kGroupRows, num, shape_.latent.softmax_scale, state.m + t,
                           state.l + t, s.prob + t * kCacheBlock, s.keep + t);
      }
      if (own) {
        StairSum(values, rows.rows, least, s, state);
      } else {
        table_.mla_sum(s.prob, s.keep, rows.rows, values, n_.ldv, num, n_.ldv, state.o, n_.ldv);
      }
    }
  }

  // Row t has least + t keys. What is behind them is left out, rather than taken with a probability
  // of 0: that would let a later row's infinity through, and make +0 of a sum of -0.
  void StairSum(const float* values, int64_t rows, int64_t least, const SlotScratch& s,
                const SoftmaxState& state) const {
    constexpr float kOne[] = {1};
    for (int64_t t = 0; t < rows; t += kStairRows) {
      const int64_t num = std::min(kStairRows, rows - t), common = least + t;
      const float* prob = s.prob + t * kCacheBlock;
      float* o = state.o + t * n_.ldv;
      table_.mla_sum(prob, s.keep + t, num, values, n_.ldv, common, n_.ldv, o, n_.ldv);
      for (int64_t j = 1; j < num; ++j) {
        table_.mla_sum(prob + j * kCacheBlock + common, kOne, 1, values + common * n_.ldv, n_.ldv,
                       j, n_.ldv, o + j * n_.ldv, n_.ldv);
      }
    }
  }

  void Finish(float* out) {
    For(ctx_, n_.heads * n_.groups, [&](int64_t unit) {
      const int64_t head = unit / n_.groups, group = unit % n_.groups;
      const SoftmaxState total = Total(head, group);
      const RowGroup rows = Group(group);
      for (int64_t t = 0; t < rows.rows; ++t) {
        const SoftmaxState row = {
            .m = total.m + t, .l = total.l + t, .o = total.o + t * n_.ldv, .ldo = n_.ldv};
        table_.mla_finish(1, n_.dv, row,
                          out + ((rows.first - n_.first + t) * n_.heads + head) * n_.dv,
                          rounding_ == Rounding::kBf16);
      }
    });
  }

  const KernelContext& ctx_;
  const KernelTable& table_;
  const ExpandedShape& shape_;
  const ExpandedRun& run_;
  const Rounding rounding_;
  const Sizes n_;
  float* const base_;  // latents of the segment in hand, then what Sizes says
};

}  // namespace

int64_t MlaExpandedScratch(const KernelContext& ctx, const ExpandedShape& shape,
                           const ExpandedRun& run) {
  return Sizes(ctx, shape, run).total;
}

void MlaExpanded(const KernelContext& ctx, const ExpandedShape& shape,
                 const ExpandedWeights& weights, const ExpandedRun& run, const float* q,
                 const float* q_rope, float* out, Rounding rounding, float* scratch) {
  ATL_DCHECK(run.num_rows > 0);
  ExpandedRunner(ctx, shape, run, rounding, scratch).Run(weights, q, q_rope, out);
}

}  // namespace atl::kernels
