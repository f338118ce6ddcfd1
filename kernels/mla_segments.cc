// Few rows, whose threads share the work within a segment.
#include "kernels/mla_call.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

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
    const MlaSizes n(call);
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
    FinishHeads(call_, row, 0, n_.heads, total_);
  }

 private:
  // Of one segment: scores [1024, lanes], prob [16 blocks][lanes][64], keep [16 blocks][lanes], the
  // state.
  static int64_t PairFloats(const MlaSizes& n) {
    return 2 * kSegment * n.lanes + kSegmentBlocks * n.lanes + n.State(n.heads);
  }
  float* ScoresOf(int64_t i) const { return pairs_ + i * PairFloats(n_); }
  float* ProbOf(int64_t i) const { return ScoresOf(i) + kSegment * n_.lanes; }
  float* KeepOf(int64_t i) const { return ProbOf(i) + kSegment * n_.lanes; }
  SoftmaxState PairState(int64_t i) const {
    return StateAt(KeepOf(i) + kSegmentBlocks * n_.lanes, n_.heads, n_.ldo);
  }
  float* KeysOfSlot(int slot) const { return keys_ + slot * kCacheBlock * n_.ldk; }

  void Scores(int64_t row, int64_t first, int64_t num) {
    ForSlots(call_.ctx, num * kSegmentBlocks, [&](int slot, int64_t i) {
      const int64_t block = first * kSegmentBlocks + i, keys = KeysIn(call_.rows[row], block);
      if (keys == 0) return;
      call_.ctx.table->mla_widen(KeysOf(call_.shape, call_.rows[row].block[block]), keys, 0,
                                 n_.width, KeysOfSlot(slot), n_.ldk);
      float* scores = ScoresOf(i / kSegmentBlocks) + i % kSegmentBlocks * kCacheBlock * n_.lanes;
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
      for (int64_t b = 0; b < kSegmentBlocks; ++b) {
        const int64_t keys = KeysIn(call_.rows[row], (first + i) * kSegmentBlocks + b);
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
      for (int64_t b = 0; b < kSegmentBlocks; ++b) {
        const int64_t block = (first + i) * kSegmentBlocks + b,
                      keys = KeysIn(call_.rows[row], block);
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
  const MlaSizes n_;
  const int64_t window_;
  float* q_ = nullptr;      // transposed, of the row in hand
  SoftmaxState total_;      // of the row in hand
  float* keys_ = nullptr;   // a block for each slot
  float* pairs_ = nullptr;  // window_ segments
};

}  // namespace

int64_t MlaBySegmentsScratch(const MlaCall& call) { return SegmentRunner::Floats(call); }

void MlaBySegments(const MlaCall& call, float* scratch) {
  SegmentRunner runner(call, scratch);
  for (int64_t row = 0; row < static_cast<int64_t>(call.rows.size()); ++row) runner.RunRow(row);
}

}  // namespace atl::kernels
