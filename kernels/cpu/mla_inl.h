// Absorbed attention over one segment of latent cache (mla.h). Included by table_inl.h.
//
// A block's 64 keys are widened to float32 once. Scores: lanes are heads, the transposed query is the "weight" and the keys are the rows.
// Weighted sum: lanes are elements of the latent, the keys are the weight and the heads are the rows.
namespace atl::kernels::ATL_ISA {

struct AttentionScratch {
  float* keys;    // [64, ldk]
  float* scores;  // [64, lanes of heads]
  float* prob;    // [heads, 64]
};

static void WidenKeys(const SegmentUnit& u, int64_t block, int64_t num, float* keys, int64_t ldk) {
  const int64_t width = u.r + u.dr;
  for (int64_t s = 0; s < num; ++s) {
    if (u.bf16) {
      Bf16ToF32Range(static_cast<const uint16_t*>(u.block[block]) + s * width, width, keys + s * ldk);
      continue;
    }
    const float* from = static_cast<const float*>(u.block[block]) + s * width;
    for (int64_t i = 0; i < width; i += 16) StoreAny(keys + s * ldk + i, LoadAny(from + i, width - i), width - i);
  }
}

static void Scores(const SegmentUnit& u, int64_t num, const AttentionScratch& a, int64_t ldk, int64_t lanes) {
  PanelUnit unit = {.num_panels = 0, .bf16 = false, .k = u.r + u.dr, .x = a.keys, .ldx = ldk, .row = nullptr, .m = num};
  for (int64_t p = 0; p * 16 < lanes; ++p) unit.w[unit.num_panels++] = u.q + p * unit.k * 16;
  RunPanels(unit, 16, a.scores, lanes, /*first=*/true);
}

// Updates m and l of 16 heads with `num` scores each; leaves the probabilities in prob and what the old state is worth in `keep` [16].
static void SoftmaxBlock(int64_t num, float scale, float* scores, int64_t lanes, float* m, float* l, float* prob,
                         int64_t heads, float* keep) {
  const V old_max = Load(m);
  V max = old_max;
  for (int64_t s = 0; s < num; ++s) {
    const V scaled = Mul(Load(scores + s * lanes), Set1(scale));
    Store(scores + s * lanes, scaled);
    max = Max(scaled, max);
  }
  const V worth = Exp(Sub(old_max, max));
  V sum = Mul(Load(l), worth);
  alignas(64) float lane[16];
  for (int64_t s = 0; s < num; ++s) {
    const V p = Exp(Sub(Load(scores + s * lanes), max));
    sum = Add(sum, p);
    Store(lane, p);
    for (int64_t h = 0; h < heads; ++h) prob[h * kBlockKeys + s] = lane[h];
  }
  Store(m, max);
  Store(l, sum);
  Store(keep, worth);
}

static void WeightedSum(const SegmentUnit& u, int64_t num, const AttentionScratch& a, int64_t ldk, const SoftmaxState& state) {
  PanelUnit unit = {.num_panels = 0, .bf16 = false, .k = num, .x = a.prob, .ldx = kBlockKeys, .row = nullptr, .m = u.heads};
  for (int64_t c = 0; c < state.ldo; c += kUnitPanels * 16) {
    unit.num_panels = 0;
    for (int64_t p = c; p < state.ldo && unit.num_panels < kUnitPanels; p += 16) unit.w[unit.num_panels++] = a.keys + p;
    RunPanels(unit, ldk, state.o + c, state.ldo, /*first=*/false);
  }
}

static void MlaSegment(const SegmentUnit& u, const SoftmaxState& state, float* scratch) {
  const int64_t ldk = RoundUp16(u.r + u.dr), lanes = RoundUp16(u.heads);
  AttentionScratch a = {.keys = scratch, .scores = nullptr, .prob = nullptr};
  a.scores = a.keys + kBlockKeys * ldk;
  a.prob = a.scores + kBlockKeys * kUnitHeads;
  for (int64_t h = 0; h < lanes; ++h) state.m[h] = -__builtin_inff(), state.l[h] = 0;
  for (int64_t i = 0; i < u.heads * state.ldo; i += 16) Store(state.o + i, Zero());

  for (int64_t begin = u.begin; begin < u.end; begin += kBlockKeys) {
    const int64_t num = u.end - begin < kBlockKeys ? u.end - begin : kBlockKeys;
    WidenKeys(u, begin / kBlockKeys, num, a.keys, ldk);
    Scores(u, num, a, ldk, lanes);
    for (int64_t h0 = 0; h0 < u.heads; h0 += 16) {
      const int64_t heads = u.heads - h0 < 16 ? u.heads - h0 : 16;
      alignas(64) float keep[16];
      SoftmaxBlock(num, u.scale, a.scores + h0, lanes, state.m + h0, state.l + h0, a.prob + h0 * kBlockKeys, heads, keep);
      for (int64_t h = 0; h < heads; ++h) {
        if (keep[h] == 1.0f) continue;  // times one changes no bit
        float* o = state.o + (h0 + h) * state.ldo;
        for (int64_t i = 0; i < state.ldo; i += 16) Store(o + i, Mul(Load(o + i), Set1(keep[h])));
      }
    }
    WeightedSum(u, num, a, ldk, state);
  }
}

static void MlaMerge(int64_t heads, int64_t r, const SoftmaxState& into, const SoftmaxState& segment) {
  alignas(64) float keep[16], add[16];
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t lane = h % 16;
    if (lane == 0) {
      const V m0 = Load(into.m + h), m1 = Load(segment.m + h);
      const V max = Max(m1, m0);
      const V a = Exp(Sub(m0, max)), b = Exp(Sub(m1, max));
      Store(into.m + h, max);
      Store(into.l + h, Fma(Load(segment.l + h), b, Mul(Load(into.l + h), a)));
      Store(keep, a);
      Store(add, b);
    }
    float* o = into.o + h * into.ldo;
    const float* from = segment.o + h * segment.ldo;
    for (int64_t i = 0; i < r; i += 16) {
      Store(o + i, Fma(Load(from + i), Set1(add[lane]), Mul(Load(o + i), Set1(keep[lane]))));
    }
  }
}

static void MlaFinish(int64_t heads, int64_t r, const SoftmaxState& state, float* out, bool round_bf16) {
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < r; i += 16) {
      const V o = Div(Load(state.o + h * state.ldo + i), Set1(state.l[h]));
      StoreAny(out + h * r + i, Round(o, round_bf16), r - i);
    }
  }
}

}  // namespace atl::kernels::ATL_ISA
