// Float inputs times FP8 blocks (matmul.h). Included by table_inl.h.
//
// A code's sign, exponent and mantissa go to where float32 has them, which makes 2^-120 times its
// value: two operations for a code. A product with the stored scale, 2^120 times the block's, is
// the weight, rounded once. Few rows widen in registers; for many, a block is widened once, and
// their tiles are those of float32 weights.
namespace atl::kernels::ATL_ISA {

// A tile's panels, and those that are read after them (as QuantPanels).
struct Fp8Panels {
  const uint8_t* w[kUnitPanels];
  const uint8_t* next[kUnitPanels];
};

ATL_INLINE V Fp8Scale(const uint8_t* panel, int64_t block) {
  float scale;
  __builtin_memcpy(&scale, panel + 4 * block, 4);
  return Set1(scale);
}

// a += x[.][k + kPlace] times that k of each panel.
template <int kPlace, int MR, int NP>
ATL_INLINE void Fp8Step(V (&a)[MR][NP], const Fp8Codes (&codes)[NP], const V (&scale)[NP],
                        const float* const (&x)[MR], int64_t k) {
  V w[NP];
#pragma GCC unroll 8
  for (int p = 0; p < NP; ++p) w[p] = Mul(Fp8At<kPlace>(codes[p]), scale[p]);
  Accumulate(a, w, x, k + kPlace);
}

// All of K, from zero.
template <int MR, int NP>
static void TileFp8(const Fp8Panels& panels, const float* const* rows, int64_t k_end, float* acc,
                    int64_t ldacc) {
  const uint8_t *w[NP], *ahead[NP];
  const float* x[MR];
  const int64_t bytes = Fp8PanelBytes(k_end);
  const bool near_end = Fp8DataOffset(k_end) + kPrefetchBytes >= bytes;
  for (int p = 0; p < NP; ++p) {
    w[p] = panels.w[p];
    ahead[p] = near_end ? panels.next[p] - bytes : w[p];
  }
  for (int r = 0; r < MR; ++r) x[r] = rows[r];
  V a[MR][NP];
  BeginTile(a, acc, ldacc, true);
  int64_t at = Fp8DataOffset(k_end);
  for (int64_t k0 = 0; k0 < k_end; k0 += kFp8Block) {
    V scale[NP];
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) scale[p] = Fp8Scale(w[p], k0 / kFp8Block);
    const int64_t k1 = k0 + kFp8Block < k_end ? k0 + kFp8Block : k_end;
    int64_t k = k0;
    for (; k + 4 <= k1; k += 4, at += 64) {
      if (at + kPrefetchBytes == bytes) {
        for (int p = 0; p < NP; ++p) ahead[p] = panels.next[p] - bytes;
      }
      Fp8Codes codes[NP];
#pragma GCC unroll 8
      for (int p = 0; p < NP; ++p) {
        Fetch(ahead[p] + at + kPrefetchBytes);
        codes[p] = LoadFp8(w[p] + at);
      }
      Fp8Step<0>(a, codes, scale, x, k);
      Fp8Step<1>(a, codes, scale, x, k);
      Fp8Step<2>(a, codes, scale, x, k);
      Fp8Step<3>(a, codes, scale, x, k);
    }
    if (k == k1) continue;
    Fp8Codes codes[NP];  // the end of K
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) codes[p] = LoadFp8(w[p] + at);
    Fp8Step<0>(a, codes, scale, x, k);
    if (k + 1 < k1) Fp8Step<1>(a, codes, scale, x, k);
    if (k + 2 < k1) Fp8Step<2>(a, codes, scale, x, k);
  }
  EndTile(a, acc, ldacc);
}

using Fp8TileFn = void (*)(const Fp8Panels&, const float* const*, int64_t, float*, int64_t);

template <int MR, int NP>
static Fp8TileFn PickFp8Panels(int num_panels) {
  if constexpr (NP > Fp8TilePanels(MR)) {
    return PickFp8Panels<MR, NP - 1>(num_panels);
  } else if constexpr (NP > 1) {
    if (num_panels < NP) return PickFp8Panels<MR, NP - 1>(num_panels);
  }
  return TileFp8<MR, NP>;
}

template <int MR>
static Fp8TileFn PickFp8Tile(int64_t num_rows, int num_panels) {
  if constexpr (MR > 1) {
    if (num_rows < MR) return PickFp8Tile<MR - 1>(num_rows, num_panels);
  }
  return PickFp8Panels<MR, kUnitPanels>(num_panels);
}

static void RunFewFp8Rows(const PanelUnit& u, float* acc, int64_t ldacc) {
  const float* x[kFp8TileRows];
  for (int64_t r = 0; r < u.m; ++r) x[r] = u.x + (u.row != nullptr ? u.row[r] : r) * u.ldx;
  const int most = Fp8TilePanels(static_cast<int>(u.m));
  const int step = most < u.num_panels ? most : u.num_panels;
  for (int p0 = 0; p0 < u.num_panels; p0 += step) {
    const int num = u.num_panels - p0 < step ? u.num_panels - p0 : step;
    Fp8Panels panels;
    for (int p = 0; p < num; ++p) {
      panels.w[p] = static_cast<const uint8_t*>(u.w[p0 + p]);
      panels.next[p] = p0 + num + p < u.num_panels
                           ? static_cast<const uint8_t*>(u.w[p0 + num + p])
                           : panels.w[p] + (u.pairs ? (num + 1) / 2 : num) * Fp8PanelBytes(u.k);
    }
    PickFp8Tile<kFp8TileRows>(u.m, num)(panels, x, u.k, acc + p0 * 16, ldacc);
  }
}

// out [k1 - k0 rounded up to 4][16]: the weights of one block.
static void WidenFp8(const uint8_t* panel, int64_t k_end, int64_t k0, int64_t k1, float* out) {
  const V scale = Fp8Scale(panel, k0 / kFp8Block);
  const uint8_t* from = panel + Fp8DataOffset(k_end) + k0 * 16;
  for (int64_t k = k0; k < k1; k += 4, from += 64, out += 64) {
    Fetch(from + kPrefetchBytes);
    const Fp8Codes codes = LoadFp8(from);
    Store(out, Mul(Fp8At<0>(codes), scale));
    Store(out + 16, Mul(Fp8At<1>(codes), scale));
    Store(out + 32, Mul(Fp8At<2>(codes), scale));
    Store(out + 48, Mul(Fp8At<3>(codes), scale));
  }
}

// acc [m, ldacc] = x W^T.
static void RunFp8Panels(const PanelUnit& u, float* acc, int64_t ldacc) {
  if (u.m <= kFp8TileRows) return RunFewFp8Rows(u, acc, ldacc);
  alignas(64) float w[kUnitPanels][kFp8Block * 16];
  PanelUnit block = u;
  block.format = PanelFormat::kF32;
  for (int p = 0; p < u.num_panels; ++p) block.w[p] = w[p];
  for (int64_t k0 = 0; k0 < u.k; k0 += kFp8Block) {
    const int64_t k1 = k0 + kFp8Block < u.k ? k0 + kFp8Block : u.k;
    for (int p = 0; p < u.num_panels; ++p)
      WidenFp8(static_cast<const uint8_t*>(u.w[p]), u.k, k0, k1, w[p]);
    block.k = k1 - k0;
    block.x = u.x + k0;
    RunPanels(block, 16, acc, ldacc, /*first=*/k0 == 0);
  }
}

}  // namespace atl::kernels::ATL_ISA
