// Many rows: a thread does some rows, or some heads of a row, from their first key to their last.
#include "kernels/mla_call.h"
#include "kernels/parallel.h"

namespace atl::kernels {
namespace {

// Rows of one sequence at consecutive positions, and heads of each: they share the blocks' keys.
struct Group {
  int64_t row = 0;
  int64_t rows = 1;
  int64_t first = 0;  // head
  int64_t heads = 0;

  int64_t RowLanes() const { return RoundUp16(heads); }
  int64_t Lanes() const { return rows * RowLanes(); }
};

// One thread's memory.
struct Scratch {
  Scratch(const MlaSizes& n, float* base)
      : q(base),
        keys(q + kUnitHeads * n.width),
        scores(keys + kCacheBlock * n.ldk),
        prob(scores + kCacheBlock * kUnitHeads),
        keep(prob + kCacheBlock * kUnitHeads),
        total(StateAt(keep + kUnitHeads, kUnitHeads, n.ldo)),
        segment(StateAt(keep + kUnitHeads + n.State(kUnitHeads), kUnitHeads, n.ldo)) {}
  static int64_t Floats(const MlaSizes& n) {
    return kUnitHeads * n.width + kCacheBlock * n.ldk + 2 * kCacheBlock * kUnitHeads + kUnitHeads +
           2 * n.State(kUnitHeads);
  }
  float *q, *keys, *scores, *prob, *keep;
  SoftmaxState total, segment;
};

class RowsRunner {
 public:
  RowsRunner(const MlaCall& call, const MlaSizes& n, float* scratch)
      : call_(call), table_(*call.ctx.table), n_(n), s_(n, scratch) {}

  void Run(const Group& g) const {
    for (int64_t i = 0; i < g.rows; ++i)
      TransposeQuery(call_, g.row + i, g.first, g.heads, s_.q + i * g.RowLanes() * n_.width);
    RunSegment(g, 0, s_.total);
    for (int64_t segment = 1; segment < NumSegments(Row(g, g.rows - 1)); ++segment) {
      RunSegment(g, segment, s_.segment);
      for (int64_t i = 0; i < g.rows; ++i) {
        if (NumSegments(Row(g, i)) <= segment) continue;
        const int64_t lane = i * g.RowLanes();
        table_.mla_merge(g.heads, n_.r, HeadsFrom(s_.total, lane), HeadsFrom(s_.segment, lane));
      }
    }
    for (int64_t i = 0; i < g.rows; ++i)
      FinishHeads(call_, g.row + i, g.first, g.heads, HeadsFrom(s_.total, i * g.RowLanes()));
  }

 private:
  const MlaRow& Row(const Group& g, int64_t i) const { return call_.rows[g.row + i]; }

  void RunSegment(const Group& g, int64_t segment, const SoftmaxState& state) const {
    BeginState(state, kUnitHeads);
    std::fill_n(state.o, g.Lanes() * n_.ldo, 0.0f);
    for (int64_t b = segment * kSegmentBlocks; b < (segment + 1) * kSegmentBlocks; ++b) {
      const int64_t most = KeysIn(Row(g, g.rows - 1), b);
      if (most == 0) break;
      table_.mla_widen(KeysOf(call_.shape, Row(g, 0).block[b]), most, 0, n_.width, s_.keys, n_.ldk);
      table_.mla_scores(s_.q, g.Lanes(), n_.width, s_.keys, n_.ldk, most, s_.scores, kUnitHeads);
      Softmax(g, b, state);
      Sum(g, b, state);
    }
  }

  void Softmax(const Group& g, int64_t block, const SoftmaxState& state) const {
    for (int64_t h = 0; h < g.Lanes(); h += 16) {
      const int64_t keys = KeysIn(Row(g, h / g.RowLanes()), block);
      if (keys == 0) continue;
      table_.mla_softmax(s_.scores + h, kUnitHeads, keys, call_.shape.softmax_scale, state.m + h,
                         state.l + h, s_.prob + h * kCacheBlock, s_.keep + h);
    }
  }

  void Sum(const Group& g, int64_t block, const SoftmaxState& state) const {
    const int64_t most = KeysIn(Row(g, g.rows - 1), block);
    if (KeysIn(Row(g, 0), block) == most && g.heads == g.RowLanes()) {
      table_.mla_sum(s_.prob, s_.keep, g.Lanes(), s_.keys, n_.ldk, most, n_.ldo, state.o, n_.ldo);
      return;
    }
    for (int64_t i = 0; i < g.rows; ++i) {
      const int64_t keys = KeysIn(Row(g, i), block), lane = i * g.RowLanes();
      if (keys == 0) continue;
      table_.mla_sum(s_.prob + lane * kCacheBlock, s_.keep + lane, g.heads, s_.keys, n_.ldk, keys,
                     n_.ldo, state.o + lane * n_.ldo, n_.ldo);
    }
  }

  const MlaCall& call_;
  const KernelTable& table_;
  const MlaSizes& n_;
  const Scratch s_;
};

// How many rows from `row` on, at most `most`, are consecutive positions of one sequence.
int64_t ConsecutiveRows(const MlaCall& call, int64_t row, int64_t most) {
  int64_t count = 1;
  while (count < most && call.rows[row + count].block == call.rows[row].block &&
         call.rows[row + count].position == call.rows[row + count - 1].position + 1) {
    ++count;
  }
  return count;
}

}  // namespace

int64_t MlaByRowsScratch(const MlaCall& call) {
  return NumSlots(call.ctx) * Scratch::Floats(MlaSizes(call));
}

void MlaByRows(const MlaCall& call, float* scratch) {
  const MlaSizes n(call);
  const int64_t rows = static_cast<int64_t>(call.rows.size()), threads = NumSlots(call.ctx);
  // Smaller groups widen the keys more often; only to give every thread something.
  int64_t heads = std::min<int64_t>(kUnitHeads, n.heads);
  int64_t together = std::max<int64_t>(1, kUnitHeads / RoundUp16(heads));
  const auto units = [&] {
    return (rows + together - 1) / together * ((n.heads + heads - 1) / heads);
  };
  while (together > 1 && threads > 1 && units() < 4 * threads) together /= 2;
  while (heads > 16 && threads > 1 && units() < 2 * threads) heads = RoundUp16(heads / 2);
  const int64_t splits = (n.heads + heads - 1) / heads;
  ForSlots(call.ctx, units(), [&](int slot, int64_t unit) {
    const RowsRunner runner(call, n, scratch + slot * Scratch::Floats(n));
    const int64_t first = unit % splits * heads, begin = unit / splits * together;
    const int64_t end = std::min(rows, begin + together);
    for (int64_t row = begin; row < end;) {
      const int64_t count = ConsecutiveRows(call, row, end - row);
      runner.Run(
          {.row = row, .rows = count, .first = first, .heads = std::min(heads, n.heads - first)});
      row += count;
    }
  });
}

}  // namespace atl::kernels
