// Pieces of absorbed attention over one block of 64 cached positions (mla.h). Included by
// table_inl.h.
//
// Scores: lanes are heads, the transposed query is the weight, the keys are the rows. Weighted sum:
// lanes are elements of the latent, the keys are the weight, the heads are the rows. Both are the
// register tiles of matmul_inl.h, so they keep one chain of fma for each output.
namespace atl::kernels::ATL_ISA {

static void WidenF8Position(const uint8_t* at, int64_t r, int64_t first, int64_t width, float* to) {
  const int64_t end = first + width, latent_end = end < r ? end : r;
  const uint8_t* scales = at + F8ScalesOffset(r);
  for (int64_t i = first; i < latent_end; i += 16) {
    float scale;  // of all 16: `first` and a scale's values are multiples of them
    __builtin_memcpy(&scale, scales + i / kScaleGroup * 4, 4);
    const V codes = LoadF8Any(at + i, latent_end - i);
    StoreAny(to + i - first, Mul(codes, Set1(scale)), latent_end - i);
  }
  const int64_t rope = first > r ? first : r;
  const uint8_t* tail = at + F8RopeOffset(r) + (rope - r) * 2;
  if (rope < end)
    Bf16ToF32Range(reinterpret_cast<const uint16_t*>(tail), end - rope, to + rope - first);
}

static void MlaWiden(const BlockKeys& from, int64_t num, int64_t first, int64_t width, float* keys,
                     int64_t ldk) {
  for (int64_t s = 0; s < num; ++s, keys += ldk) {
    const uint8_t* at = static_cast<const uint8_t*>(from.data) + s * from.stride;
    if (from.format == CacheFormat::kF8) {
      WidenF8Position(at, from.r, first, width, keys);
    } else if (from.format == CacheFormat::kBf16) {
      Bf16ToF32Range(reinterpret_cast<const uint16_t*>(at) + first, width, keys);
    } else {
      const float* x = reinterpret_cast<const float*>(at) + first;
      for (int64_t i = 0; i < width; i += 16)
        StoreAny(keys + i, LoadAny(x + i, width - i), width - i);
    }
  }
}

static void MlaScores(const float* q, int64_t heads, int64_t k, const float* keys, int64_t ldk,
                      int64_t num, float* scores, int64_t ld) {
  PanelUnit unit = {.num_panels = 0, .k = k, .x = keys, .ldx = ldk, .m = num};
  for (int64_t p = 0; p * 16 < heads; ++p) unit.w[unit.num_panels++] = q + p * k * 16;
  RunPanels(unit, 16, scores, ld, /*first=*/true);
}

static void MlaSoftmax(const float* scores, int64_t ld, int64_t num, float scale, float* m,
                       float* l, float* prob, float* keep) {
  const V old_max = Load(m), factor = Set1(scale);
  V max = old_max;
  for (int64_t s = 0; s < num; ++s) max = Max(Mul(Load(scores + s * ld), factor), max);
  const V worth = Exp(Sub(old_max, max));
  V sum = Mul(Load(l), worth);
  alignas(64) float lane[16];
  for (int64_t s = 0; s < num; ++s) {
    const V p = Exp(Sub(Mul(Load(scores + s * ld), factor), max));
    sum = Add(sum, p);
    Store(lane, p);
    for (int64_t h = 0; h < 16; ++h) prob[h * kBlockKeys + s] = lane[h];
  }
  Store(m, max);
  Store(l, sum);
  Store(keep, worth);
}

static void MlaSum(const float* prob, const float* keep, int64_t heads, const float* keys,
                   int64_t ldk, int64_t num, int64_t cols, float* o, int64_t ldo) {
  for (int64_t h = 0; h < heads; ++h) {
    if (keep[h] == 1.0f) continue;  // times one changes no bit
    for (int64_t i = 0; i < cols; i += 16)
      Store(o + h * ldo + i, Mul(Load(o + h * ldo + i), Set1(keep[h])));
  }
  PanelUnit unit = {.num_panels = 0, .k = num, .x = prob, .ldx = kBlockKeys, .m = heads};
  for (int64_t c = 0; c < cols; c += kUnitPanels * 16) {
    unit.num_panels = 0;
    for (int64_t p = c; p < cols && unit.num_panels < kUnitPanels; p += 16)
      unit.w[unit.num_panels++] = keys + p;
    RunPanels(unit, ldk, o + c, ldo, /*first=*/false);
  }
}

static void MlaMerge(int64_t heads, int64_t r, const SoftmaxState& into,
                     const SoftmaxState& segment) {
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

static void MlaFinish(int64_t heads, int64_t r, const SoftmaxState& state, float* out,
                      bool round_bf16) {
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < r; i += 16) {
      const V o = Div(Load(state.o + h * state.ldo + i), Set1(state.l[h]));
      StoreAny(out + h * r + i, Round(o, round_bf16), r - i);
    }
  }
}

}  // namespace atl::kernels::ATL_ISA
