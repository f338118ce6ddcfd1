#include "kernels/mla_paths.h"

#include <algorithm>

#include "kernels/cpu/table.h"
#include "kernels/latent.h"
#include "kernels/parallel.h"
#include "kernels/softmax_state.h"

namespace atl::kernels {
namespace {

constexpr int64_t kBlocks = kSegment / kCacheBlock;  // of a segment

// A call's sizes, in elements.
struct Sizes {
  explicit Sizes(const MlaCall& call)
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
int64_t KeysIn(const MlaRow& row, int64_t block) {
  return std::clamp<int64_t>(row.position + int64_t{1} - block * kCacheBlock, 0, kCacheBlock);
}

// q [heads / 16][R + Dr][16] of heads [first, first + heads) of a row; lanes beyond the last head
// are 0.
void TransposeQuery(const MlaCall& call, int64_t row, int64_t first, int64_t heads, float* q) {
  const int64_t r = call.shape.kv_lora_rank, dr = call.shape.qk_rope_head_dim;
  for (int64_t h = 0; h < RoundUp16(heads); ++h) {
    float* to = q + h / 16 * (r + dr) * 16 + h % 16;
    const int64_t vector = row * call.shape.num_heads + first + h;
    const bool real = h < heads;
    for (int64_t i = 0; i < r; ++i) to[i * 16] = real ? call.q_latent[vector * r + i] : 0;
    for (int64_t i = 0; i < dr; ++i) to[(r + i) * 16] = real ? call.q_rope[vector * dr + i] : 0;
  }
}

void Finish(const MlaCall& call, int64_t row, int64_t first, int64_t heads,
            const SoftmaxState& state) {
  const int64_t r = call.shape.kv_lora_rank;
  float* out = call.out + (row * call.shape.num_heads + first) * r;
  call.ctx.table->mla_finish(heads, r, state, out, call.rounding == Rounding::kBf16);
}

// ---- by rows

struct HeadGroup {
  int64_t row = 0;
  int64_t first = 0;
  int64_t heads = 0;
};

// One thread's memory.
struct RowScratch {
  RowScratch(const Sizes& n, float* base)
      : q(base),
        keys(q + kUnitHeads * n.width),
        scores(keys + kCacheBlock * n.ldk),
        prob(scores + kCacheBlock * kUnitHeads),
        keep(prob + kCacheBlock * kUnitHeads),
        total(StateAt(keep + kUnitHeads, kUnitHeads, n.ldo)),
        segment(StateAt(keep + kUnitHeads + n.State(kUnitHeads), kUnitHeads, n.ldo)) {}
  static int64_t Floats(const Sizes& n) {
    return kUnitHeads * n.width + kCacheBlock * n.ldk + 2 * kCacheBlock * kUnitHeads + kUnitHeads +
           2 * n.State(kUnitHeads);
  }
  float *q, *keys, *scores, *prob, *keep;
  SoftmaxState total, segment;
};

void RunSegment(const MlaCall& call, const Sizes& n, const HeadGroup& g, int64_t segment,
                const RowScratch& s, const SoftmaxState& state) {
  const KernelTable& table = *call.ctx.table;
  const MlaRow& row = call.rows[g.row];
  BeginState(state, kUnitHeads);
  std::fill_n(state.o, g.heads * n.ldo, 0.0f);
  for (int64_t block = segment * kBlocks; block < (segment + 1) * kBlocks; ++block) {
    const int64_t num = KeysIn(row, block);
    if (num == 0) break;
    table.mla_widen(KeysOf(call.shape, row.block[block]), num, 0, n.width, s.keys, n.ldk);
    table.mla_scores(s.q, RoundUp16(g.heads), n.width, s.keys, n.ldk, num, s.scores, kUnitHeads);
    for (int64_t h = 0; h < g.heads; h += 16) {
      table.mla_softmax(s.scores + h, kUnitHeads, num, call.shape.softmax_scale, state.m + h,
                        state.l + h, s.prob + h * kCacheBlock, s.keep + h);
    }
    table.mla_sum(s.prob, s.keep, g.heads, s.keys, n.ldk, num, n.ldo, state.o, n.ldo);
  }
}

// ---- by segments

class SegmentRunner {
 public:
  SegmentRunner(const MlaCall& call, float* base) : call_(call), n_(call), window_(Window(call)) {
    q_ = base;
    total_ = StateAt(q_ + n_.lanes * n_.width, n_.heads, n_.ldo);
    keys_ = q_ + n_.lanes * n_.width + n_.State(n_.heads);
    pairs_ = keys_ + NumSlots(call.ctx) * kCacheBlock * n_.ldk;
  }

  // Segments in hand at a time: enough that the softmax, 16 heads of a segment a unit, keeps every
  // thread busy.
  static int64_t Window(const MlaCall& call) { return std::clamp(NumSlots(call.ctx), 4, 16); }

  static int64_t Floats(const MlaCall& call) {
    const Sizes n(call);
    return n.lanes * n.width + n.State(n.heads) + NumSlots(call.ctx) * kCacheBlock * n.ldk +
           Window(call) * PairFloats(n);
  }

  void RunRow(int64_t row) {
    For(call_.ctx, n_.lanes / 16, [&](int64_t p) {
      TransposeQuery(call_, row, p * 16, std::min<int64_t>(16, n_.heads - p * 16),
                     q_ + p * 16 * n_.width);
    });
    const int64_t segments = NumSegments(call_.rows[row]);
    for (int64_t first = 0; first < segments; first += window_) {
      const int64_t num = std::min(window_, segments - first);
      Scores(row, first, num);
      Softmax(row, first, num);
      WeightedSum(row, first, num);
      if (first == 0)
        std::copy_n(PairState(0).m, n_.State(n_.heads),
                    total_.m);  // m, l and o are one piece of memory
      for (int64_t i = first == 0 ? 1 : 0; i < num; ++i) {
        call_.ctx.table->mla_merge(n_.heads, n_.r, total_, PairState(i));
      }
    }
    Finish(call_, row, 0, n_.heads, total_);
  }

 private:
  // Of one segment: scores [1024, lanes], prob [16 blocks][lanes][64], keep [16 blocks][lanes], the
  // state.
  static int64_t PairFloats(const Sizes& n) {
    return 2 * kSegment * n.lanes + kBlocks * n.lanes + n.State(n.heads);
  }
  float* ScoresOf(int64_t i) const { return pairs_ + i * PairFloats(n_); }
  float* ProbOf(int64_t i) const { return ScoresOf(i) + kSegment * n_.lanes; }
  float* KeepOf(int64_t i) const { return ProbOf(i) + kSegment * n_.lanes; }
  SoftmaxState PairState(int64_t i) const {
    return StateAt(KeepOf(i) + kBlocks * n_.lanes, n_.heads, n_.ldo);
  }
  float* KeysOfSlot(int slot) const { return keys_ + slot * kCacheBlock * n_.ldk; }

  void Scores(int64_t row, int64_t first, int64_t num) {
    ForSlots(call_.ctx, num * kBlocks, [&](int slot, int64_t i) {
      const int64_t block = first * kBlocks + i, keys = KeysIn(call_.rows[row], block);
      if (keys == 0) return;
      call_.ctx.table->mla_widen(KeysOf(call_.shape, call_.rows[row].block[block]), keys, 0,
                                 n_.width, KeysOfSlot(slot), n_.ldk);
      float* scores = ScoresOf(i / kBlocks) + i % kBlocks * kCacheBlock * n_.lanes;
      for (int64_t h = 0; h < n_.lanes; h += kUnitHeads) {
        call_.ctx.table->mla_scores(q_ + h * n_.width, std::min<int64_t>(kUnitHeads, n_.lanes - h),
                                    n_.width, KeysOfSlot(slot), n_.ldk, keys, scores + h, n_.lanes);
      }
    });
  }

  void Softmax(int64_t row, int64_t first, int64_t num) {
    const int64_t panels = n_.lanes / 16;
    For(call_.ctx, num * panels, [&](int64_t unit) {
      const int64_t i = unit / panels, h = unit % panels * 16;
      const SoftmaxState state = PairState(i);
      BeginState({.m = state.m + h, .l = state.l + h}, 16);
      for (int64_t b = 0; b < kBlocks; ++b) {
        const int64_t keys = KeysIn(call_.rows[row], (first + i) * kBlocks + b);
        if (keys == 0) break;
        call_.ctx.table->mla_softmax(ScoresOf(i) + b * kCacheBlock * n_.lanes + h, n_.lanes, keys,
                                     call_.shape.softmax_scale, state.m + h, state.l + h,
                                     ProbOf(i) + (b * n_.lanes + h) * kCacheBlock,
                                     KeepOf(i) + b * n_.lanes + h);
      }
    });
  }

  void WeightedSum(int64_t row, int64_t first, int64_t num) {
    const int64_t groups = (n_.heads + kUnitHeads - 1) / kUnitHeads;
    // Wide chunks of columns use the probabilities longer; narrower ones only to give every thread
    // something.
    int64_t chunk = n_.ldo;
    auto chunks = [&] { return (n_.ldo + chunk - 1) / chunk; };
    while (chunk > 64 && num * groups * chunks() < 2 * NumSlots(call_.ctx))
      chunk = RoundUp16(chunk / 2);
    ForSlots(call_.ctx, num * groups * chunks(), [&](int slot, int64_t unit) {
      const int64_t i = unit / (groups * chunks()), h = unit / chunks() % groups * kUnitHeads,
                    c = unit % chunks() * chunk;
      const int64_t heads = std::min<int64_t>(kUnitHeads, n_.heads - h),
                    cols = std::min(chunk, n_.ldo - c);
      float* o = PairState(i).o + h * n_.ldo + c;
      for (int64_t head = 0; head < heads; ++head) std::fill_n(o + head * n_.ldo, cols, 0.0f);
      for (int64_t b = 0; b < kBlocks; ++b) {
        const int64_t block = (first + i) * kBlocks + b, keys = KeysIn(call_.rows[row], block);
        if (keys == 0) break;
        float* wide = KeysOfSlot(slot);
        call_.ctx.table->mla_widen(KeysOf(call_.shape, call_.rows[row].block[block]), keys, c,
                                   std::min(cols, n_.width - c), wide, cols);
        call_.ctx.table->mla_sum(ProbOf(i) + (b * n_.lanes + h) * kCacheBlock,
                                 KeepOf(i) + b * n_.lanes + h, heads, wide, cols, keys, cols, o,
                                 n_.ldo);
      }
    });
  }

  const MlaCall& call_;
  const Sizes n_;
  const int64_t window_;
  float* q_ = nullptr;      // transposed, of the row in hand
  SoftmaxState total_;      // of the row in hand
  float* keys_ = nullptr;   // a block for each slot
  float* pairs_ = nullptr;  // window_ segments
};

}  // namespace

int64_t MlaByRowsScratch(const MlaCall& call) {
  return NumSlots(call.ctx) * RowScratch::Floats(Sizes(call));
}

void MlaByRows(const MlaCall& call, float* scratch) {
  const Sizes n(call);
  const int64_t rows = static_cast<int64_t>(call.rows.size()), threads = NumSlots(call.ctx);
  // Smaller groups widen the keys more often; only to give every thread something.
  int64_t group = kUnitHeads;
  auto groups = [&] { return (n.heads + group - 1) / group; };
  while (group > 16 && threads > 1 && rows * groups() < 2 * threads) group /= 2;
  ForSlots(call.ctx, rows * groups(), [&](int slot, int64_t unit) {
    const RowScratch s(n, scratch + slot * RowScratch::Floats(n));
    const int64_t first = unit % groups() * group;
    const HeadGroup g = {
        .row = unit / groups(), .first = first, .heads = std::min(group, n.heads - first)};
    TransposeQuery(call, g.row, g.first, g.heads, s.q);
    RunSegment(call, n, g, 0, s, s.total);
    for (int64_t i = 1; i < NumSegments(call.rows[g.row]); ++i) {
      RunSegment(call, n, g, i, s, s.segment);
      call.ctx.table->mla_merge(g.heads, n.r, s.total, s.segment);
    }
    Finish(call, g.row, g.first, g.heads, s.total);
  });
}

int64_t MlaBySegmentsScratch(const MlaCall& call) { return SegmentRunner::Floats(call); }

void MlaBySegments(const MlaCall& call, float* scratch) {
  SegmentRunner runner(call, scratch);
  for (int64_t row = 0; row < static_cast<int64_t>(call.rows.size()); ++row) runner.RunRow(row);
}

}  // namespace atl::kernels
