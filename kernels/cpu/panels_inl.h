// Register tiles of matrix products over float inputs. Included by table_inl.h.
//
// A tile holds MR rows x NP panels of accumulators and runs over k in ascending order; it begins
// from zero or from what the previous K block left in `acc`, so that every output is one chain of
// fma whatever the blocking.
namespace atl::kernels::ATL_ISA {

// How far ahead weights are fetched. A GEMV without it read at 70 % of the DRAM rate, with it at 90
// %.
inline constexpr int64_t kPrefetchBytes = 4096;
// One row reads one or two streams, at 33 GB/s so instead of 26.
constexpr int64_t PrefetchBytes(int rows) { return rows == 1 ? 1024 : kPrefetchBytes; }
// Into L2: lines fetched into L1 wait for DRAM in its few miss buffers, where the loads of the
// inputs wait as well, so that reading and arithmetic took turns (6 rows of 8 bits: 4.8 ns a line
// instead of 2.3).
ATL_INLINE void Fetch(const void* line) { __builtin_prefetch(line, /*rw=*/0, /*locality=*/2); }
// A K block: 4 panels x 1024 of bf16 are 128 KiB, which stay in L2 while all row tiles pass over
// them.
inline constexpr int64_t kBlockK = 1024;

// Weights of one pass: `num` panels. float32: w[p][k * stride + lane]. bf16: pairs, w[p][k / 2 * 16
// + lane] as 32 bits.
struct Panels {
  const void* w[kUnitPanels];
  int64_t stride;
};

template <int MR, int NP>
ATL_INLINE void BeginTile(V (&a)[MR][NP], const float* acc, int64_t ldacc, bool first) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) a[r][p] = first ? Zero() : Load(acc + r * ldacc + p * 16);
  }
}

template <int MR, int NP>
ATL_INLINE void EndTile(const V (&a)[MR][NP], float* acc, int64_t ldacc) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) Store(acc + r * ldacc + p * 16, a[r][p]);
  }
}

template <int MR, int NP>
ATL_INLINE void Accumulate(V (&a)[MR][NP], const V (&w)[NP], const float* const (&x)[MR],
                           int64_t k) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    const V xr = Set1(x[r][k]);
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) a[r][p] = Fma(xr, w[p], a[r][p]);
  }
}

template <int MR, int NP>
static void TileF32(const Panels& panels, const float* const* rows, int64_t k0, int64_t k1,
                    float* acc, int64_t ldacc, bool first) {
  const float* w[NP];
  const float* x[MR];
  for (int p = 0; p < NP; ++p) w[p] = static_cast<const float*>(panels.w[p]) + k0 * panels.stride;
  for (int r = 0; r < MR; ++r) x[r] = rows[r];
  V a[MR][NP];
  BeginTile(a, acc, ldacc, first);
  int64_t at = 0;
  for (int64_t k = k0; k < k1; ++k, at += panels.stride) {
    V wk[NP];
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) {
      Fetch(reinterpret_cast<const char*>(w[p] + at) + PrefetchBytes(MR));
      wk[p] = Load(w[p] + at);
    }
    Accumulate(a, wk, x, k);
  }
  EndTile(a, acc, ldacc);
}

// k0 is even. An odd K ends with the lower half of a last pair.
template <int MR, int NP>
static void TileBf16(const Panels& panels, const float* const* rows, int64_t k0, int64_t k1,
                     float* acc, int64_t ldacc, bool first) {
  const uint32_t* w[NP];
  const float* x[MR];
  for (int p = 0; p < NP; ++p) w[p] = static_cast<const uint32_t*>(panels.w[p]) + k0 / 2 * 16;
  for (int r = 0; r < MR; ++r) x[r] = rows[r];
  V a[MR][NP];
  BeginTile(a, acc, ldacc, first);
  int64_t at = 0, k = k0;
  for (; k + 1 < k1; k += 2, at += 16) {
    V wk[NP];
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) {
      Fetch(reinterpret_cast<const char*>(w[p] + at) + PrefetchBytes(MR));
      wk[p] = LowBf16(w[p] + at);
    }
    Accumulate(a, wk, x, k);
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) wk[p] = HighBf16(w[p] + at);
    Accumulate(a, wk, x, k + 1);
  }
  if (k < k1) {
    V wk[NP];
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) wk[p] = LowBf16(w[p] + at);
    Accumulate(a, wk, x, k);
  }
  EndTile(a, acc, ldacc);
}

using TileFn = void (*)(const Panels&, const float* const*, int64_t, int64_t, float*, int64_t,
                        bool);

template <int MR, int NP>
static TileFn PickPanels(bool bf16, int num_panels) {
  if constexpr (NP > TilePanels(MR)) {
    return PickPanels<MR, NP - 1>(bf16, num_panels);
  } else if constexpr (NP > 1) {
    if (num_panels < NP) return PickPanels<MR, NP - 1>(bf16, num_panels);
  }
  return bf16 ? TileBf16<MR, NP> : TileF32<MR, NP>;
}

template <int MR>
static TileFn PickTile(bool bf16, int64_t num_rows, int num_panels) {
  if constexpr (MR > 1) {
    if (num_rows < MR) return PickTile<MR - 1>(bf16, num_rows, num_panels);
  }
  return PickPanels<MR, kUnitPanels>(bf16, num_panels);
}

// acc [m, 16 num_panels] (+)= x W^T over all of K. `first`: from zero.
static void RunPanels(const PanelUnit& u, int64_t stride, float* acc, int64_t ldacc, bool first) {
  const int64_t num_tiles = (u.m + kTileRows - 1) / kTileRows;
  const int64_t block = num_tiles > 1 ? kBlockK : u.k;
  for (int64_t k0 = 0; k0 < u.k; k0 += block) {
    const int64_t k1 = k0 + block < u.k ? k0 + block : u.k;
    // Rows are dealt evenly: 7 as 4 + 3, for a tile of one row waits for its own fma.
    const int64_t most = (u.m + num_tiles - 1) / num_tiles;
    const int step = TilePanels(static_cast<int>(most)) < u.num_panels
                         ? TilePanels(static_cast<int>(most))
                         : u.num_panels;
    for (int p0 = 0; p0 < u.num_panels; p0 += step) {
      const int num = u.num_panels - p0 < step ? u.num_panels - p0 : step;
      Panels panels = {{}, stride};
      for (int p = 0; p < num; ++p) panels.w[p] = u.w[p0 + p];
      for (int64_t t = 0; t < num_tiles; ++t) {
        const int64_t begin = t * u.m / num_tiles;
        const int64_t rows = (t + 1) * u.m / num_tiles - begin;
        const float* x[kTileRows];
        for (int64_t r = 0; r < rows; ++r)
          x[r] = u.x + (u.row != nullptr ? u.row[begin + r] : begin + r) * u.ldx;
        PickTile<kTileRows>(u.format == PanelFormat::kBf16, rows, num)(
            panels, x, k0, k1, acc + begin * ldacc + p0 * 16, ldacc, first && k0 == 0);
      }
    }
  }
}

}  // namespace atl::kernels::ATL_ISA
