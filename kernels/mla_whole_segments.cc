// Few rows with long contexts: a thread does a segment of a row, for all heads.
#include "kernels/mla_call.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

// One thread's memory.
struct Scratch {
  Scratch(const MlaSizes& n, float* base)
      : keys(base),
        scores(keys + kCacheBlock * n.ldk),
        prob(scores + kCacheBlock * kUnitHeads),
        keep(prob + kCacheBlock * kUnitHeads) {}
  static int64_t Floats(const MlaSizes& n) {
    return kCacheBlock * n.ldk + 2 * kCacheBlock * kUnitHeads + kUnitHeads;
  }
  float *keys, *scores, *prob, *keep;
};

class WholeSegmentsRunner {
 public:
  WholeSegmentsRunner(const MlaCall& call, float* base)
      : call_(call), n_(call), window_(Window(call)) {
    q_ = base;
    states_ = q_ + n_.lanes * n_.width;
    slots_ = states_ + (1 + window_) * n_.State(n_.heads);
  }

  // Segments in hand at a time: their states are kept until they are merged, in ascending order.
  static int64_t Window(const MlaCall& call) {
    return std::clamp<int64_t>(4 * NumSlots(call.ctx), 8, 64);
  }

  static int64_t Floats(const MlaCall& call) {
    const MlaSizes n(call);
    return n.lanes * n.width + (1 + Window(call)) * n.State(n.heads) +
           NumSlots(call.ctx) * Scratch::Floats(n);
  }

  void RunRow(int64_t row) const {
    For(call_.ctx, n_.lanes / 16, [&](int64_t p) {
      TransposeQuery(call_, row, p * 16, std::min<int64_t>(16, n_.heads - p * 16),
                     q_ + p * 16 * n_.width);
    });
    const int64_t segments = NumSegments(call_.rows[row]);
    for (int64_t first = 0; first < segments; first += window_) {
      const int64_t num = std::min(window_, segments - first);
      ForSlots(call_.ctx, num,
               [&](int slot, int64_t i) { RunSegment(row, first + i, slot, State(1 + i)); });
      For(call_.ctx, n_.lanes / 16, [&](int64_t p) { Merge(p * 16, first == 0, num); });
    }
    For(call_.ctx, n_.lanes / 16, [&](int64_t p) {
      FinishHeads(call_, row, p * 16, std::min<int64_t>(16, n_.heads - p * 16),
                  HeadsFrom(State(0), p * 16));
    });
  }

 private:
  // 0: of the row; 1 + i: of the i-th segment in hand.
  SoftmaxState State(int64_t i) const {
    return StateAt(states_ + i * n_.State(n_.heads), n_.heads, n_.ldo);
  }

  void RunSegment(int64_t row, int64_t segment, int slot, const SoftmaxState& state) const {
    const KernelTable& table = *call_.ctx.table;
    const Scratch s(n_, slots_ + slot * Scratch::Floats(n_));
    BeginState(state, n_.lanes);
    std::fill_n(state.o, n_.heads * n_.ldo, 0.0f);
    for (int64_t b = segment * kSegmentBlocks; b < (segment + 1) * kSegmentBlocks; ++b) {
      const int64_t num = KeysIn(call_.rows[row], b);
      if (num == 0) break;
      table.mla_widen(KeysOf(call_.shape, call_.rows[row].block[b]), num, 0, n_.width, s.keys,
                      n_.ldk);
      for (int64_t first = 0; first < n_.heads; first += kUnitHeads) {
        const int64_t heads = std::min<int64_t>(kUnitHeads, n_.heads - first);
        table.mla_scores(q_ + first * n_.width, RoundUp16(heads), n_.width, s.keys, n_.ldk, num,
                         s.scores, kUnitHeads);
        for (int64_t h = 0; h < heads; h += 16) {
          table.mla_softmax(s.scores + h, kUnitHeads, num, call_.shape.softmax_scale,
                            state.m + first + h, state.l + first + h, s.prob + h * kCacheBlock,
                            s.keep + h);
        }
        table.mla_sum(s.prob, s.keep, heads, s.keys, n_.ldk, num, n_.ldo, state.o + first * n_.ldo,
                      n_.ldo);
      }
    }
  }

  // 16 heads' segments in hand, into the row's state.
  void Merge(int64_t head, bool begins, int64_t num) const {
    const int64_t heads = std::min<int64_t>(16, n_.heads - head);
    const SoftmaxState total = HeadsFrom(State(0), head);
    for (int64_t i = 0; i < num; ++i) {
      const SoftmaxState one = HeadsFrom(State(1 + i), head);
      if (!begins || i > 0) {
        call_.ctx.table->mla_merge(heads, n_.r, total, one);
        continue;
      }
      std::copy_n(one.m, 16, total.m);
      std::copy_n(one.l, 16, total.l);
      std::copy_n(one.o, heads * n_.ldo, total.o);
    }
  }

  const MlaCall& call_;
  const MlaSizes n_;
  const int64_t window_;
  float* q_ = nullptr;       // transposed, of the row in hand
  float* states_ = nullptr;  // 1 + window_
  float* slots_ = nullptr;
};

}  // namespace

int64_t MlaByWholeSegmentsScratch(const MlaCall& call) { return WholeSegmentsRunner::Floats(call); }

void MlaByWholeSegments(const MlaCall& call, float* scratch) {
  const WholeSegmentsRunner runner(call, scratch);
  for (int64_t row = 0; row < static_cast<int64_t>(call.rows.size()); ++row) runner.RunRow(row);
}

}  // namespace atl::kernels
