// Integer register tiles: int8 inputs times 8- or 4-bit weights, exact within a group of kGroup,
// one fma a group (matmul.h). Included by table_inl.h.
//
// Weights are unsigned (128 more than their value), inputs signed: what vpdpbusd takes. A group's
// sums begin with QuantGroup::offset instead of zero, which takes the 128 out again.
namespace atl::kernels::ATL_ISA {

// A block of groups: 4 panels x 8 groups of 8 bits are 17 KB, which stay in L1 while all row tiles
// pass over them.
inline constexpr int64_t kBlockGroups = 8;

static void QuantizeRow(const float* x, int64_t k, QuantGroup* out) {
  for (int64_t i = 0; i < k; i += kGroup, ++out) {
    const V a = LoadAny(x + i, k - i), b = k - i > 16 ? LoadAny(x + i + 16, k - i - 16) : Zero();
    const uint32_t bits = MaxMagnitude(a, b);
    const bool finite = bits < 0x7f800000u, none = bits < kQuantTinyBits;
    const float most = __builtin_bit_cast(float, bits);
    const V inverse = Set1(127.0f / most);
    const V scaled_a = finite && !none ? Mul(a, inverse) : Zero();
    const V scaled_b = finite && !none ? Mul(b, inverse) : Zero();
    out->offset = -128 * (StoreInt8(out->q, scaled_a) + StoreInt8(out->q + 16, scaled_b));
    out->scale = !finite ? __builtin_nanf("") : none ? 0 : most / 127.0f;
  }
}

ATL_INLINE Ints InputBytes(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, 4);
  return SetInt(four);
}

// sums += four inputs of each row times four k of each panel; `load(p)` gives those of panel p.
template <int MR, int NP, typename LoadWeights>
ATL_INLINE void DotStep(Ints (&sums)[MR][NP], const QuantGroup* const (&x)[MR], int64_t k,
                        LoadWeights load) {
  Bytes w[NP];
#pragma GCC unroll 8
  for (int p = 0; p < NP; ++p) w[p] = Unsigned(load(p));
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    const auto xr = Signed(InputBytes(x[r]->q + k));
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) sums[r][p] = Dot4(sums[r][p], w[p], xr);
  }
}

template <int MR, int NP, bool kQ4, bool kFetch>
ATL_INLINE void DotGroup(Ints (&sums)[MR][NP], const QuantGroup* const (&x)[MR],
                         const uint8_t* const (&w)[NP], const uint8_t* const (&ahead)[NP]) {
  for (int64_t i = 0; i < GroupBytes(kQ4); i += 64) {
    if constexpr (kFetch) {
#pragma GCC unroll 8
      for (int p = 0; p < NP; ++p) Fetch(ahead[p] + i);
    }
    if constexpr (kQ4) {
      DotStep(sums, x, i / 8, [&](int p) { return LowNibbles(w[p] + i); });
      DotStep(sums, x, i / 8 + 4, [&](int p) { return HighNibbles(w[p] + i); });
    } else {
      DotStep(sums, x, i / 16, [&](int p) { return LoadBytes(w[p] + i); });
    }
  }
}

// A tile's panels, and those that are read after them: what lies past a panel's end is fetched from
// there.
struct QuantPanels {
  const uint8_t* w[kUnitPanels];
  const uint8_t* next[kUnitPanels];
  int64_t bytes;  // of a panel
};

// Groups g0 to g1; fetches ahead at the groups `fetch`, `fetch` + step, ...: the tiles of a block
// share that work, so that none of them waits for all of the next block. kAlone: at every group;
// its loop is 5 % faster for one row.
template <int MR, int NP, bool kQ4, bool kAlone>
static void TileQuant(const QuantPanels& panels, const QuantGroup* const* rows, int64_t g0,
                      int64_t g1, int64_t fetch, int64_t step, float* acc, int64_t ldacc) {
  constexpr int64_t kAhead = PrefetchBytes(MR);
  const QuantGroup* x[MR];
  for (int r = 0; r < MR; ++r) x[r] = rows[r] + g0;
  V a[MR][NP];
  BeginTile(a, acc, ldacc, g0 == 0);
  for (int64_t g = g0; g < g1; ++g) {
    Ints sums[MR][NP];
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < NP; ++p) sums[r][p] = SetInt(x[r]->offset);
    }
    const int64_t at = DataOffset(kQ4, g), scales = ScalesOffset(kQ4, g);
    const bool inside = at + kAhead < panels.bytes;
    const uint8_t *w[NP], *ahead[NP];
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) {
      w[p] = panels.w[p] + at;
      ahead[p] = inside ? w[p] + kAhead : panels.next[p] + (at + kAhead - panels.bytes);
    }
    if (kAlone || g == fetch) {
      DotGroup<MR, NP, kQ4, true>(sums, x, w, ahead);
      for (int p = 0; p < NP; ++p) Fetch(ahead[p] + (scales - at));
      fetch += step;
    } else {
      DotGroup<MR, NP, kQ4, false>(sums, x, w, ahead);
    }
#pragma GCC unroll 8
    for (int p = 0; p < NP; ++p) {
      const V s = LoadBf16(reinterpret_cast<const uint16_t*>(panels.w[p] + scales));
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r)
        a[r][p] = Fma(ToFloat(sums[r][p]), Mul(Set1(x[r]->scale), s), a[r][p]);
    }
    for (int r = 0; r < MR; ++r) ++x[r];
  }
  EndTile(a, acc, ldacc);
}

using QuantTileFn = void (*)(const QuantPanels&, const QuantGroup* const*, int64_t, int64_t,
                             int64_t, int64_t, float*, int64_t);

template <int MR, int NP>
static QuantTileFn PickQuantPanels(bool q4, bool alone, int num_panels) {
  if constexpr (NP > QuantTilePanels(MR)) {
    return PickQuantPanels<MR, NP - 1>(q4, alone, num_panels);
  } else {
    if constexpr (NP > 1) {
      if (num_panels < NP) return PickQuantPanels<MR, NP - 1>(q4, alone, num_panels);
    }
    if (q4) return alone ? TileQuant<MR, NP, true, true> : TileQuant<MR, NP, true, false>;
    return alone ? TileQuant<MR, NP, false, true> : TileQuant<MR, NP, false, false>;
  }
}

template <int MR>
static QuantTileFn PickQuantTile(bool q4, bool alone, int64_t num_rows, int num_panels) {
  if constexpr (MR > 1) {
    if (num_rows < MR) return PickQuantTile<MR - 1>(q4, alone, num_rows, num_panels);
  }
  return PickQuantPanels<MR, kUnitPanels>(q4, alone, num_panels);
}

// `num` panels from p0 on. After the last of the unit come those that lie behind.
static QuantPanels PanelsAt(const PanelUnit& u, int p0, int num) {
  const bool q4 = u.format == PanelFormat::kQ4;
  const int64_t groups = (u.k + kGroup - 1) / kGroup;
  QuantPanels panels;
  panels.bytes = (groups + 1) / 2 * kScalesBytes + groups * GroupBytes(q4);
  for (int p = 0; p < num; ++p) {
    panels.w[p] = static_cast<const uint8_t*>(u.w[p0 + p]);
    panels.next[p] = p0 + num + p < u.num_panels
                         ? static_cast<const uint8_t*>(u.w[p0 + num + p])
                         : panels.w[p] + (u.pairs ? (num + 1) / 2 : num) * panels.bytes;
  }
  return panels;
}

// acc [m, 16 num_panels] = x W^T.
static void RunQuantPanels(const PanelUnit& u, float* acc, int64_t ldacc) {
  const bool q4 = u.format == PanelFormat::kQ4;
  const int64_t groups = (u.k + kGroup - 1) / kGroup;
  const int64_t num_tiles = (u.m + kQuantTileRows - 1) / kQuantTileRows;
  if (groups == 0) {
    for (int64_t i = 0; i < u.m * ldacc; ++i) acc[i] = 0;
    return;
  }
  const int64_t block = num_tiles > 1 ? kBlockGroups : groups;
  // One row reads a matrix as one stream, and a pair of them as two: 97 % of the DRAM rate, against
  // 80 % from four places at once.
  const int want = u.m > 1 ? kUnitPanels : u.pairs ? 2 : 1;
  const int most = QuantTilePanels(static_cast<int>((u.m + num_tiles - 1) / num_tiles));
  const int step = most < want ? most : want;
  for (int64_t g0 = 0; g0 < groups; g0 += block) {
    const int64_t g1 = g0 + block < groups ? g0 + block : groups;
    for (int p0 = 0; p0 < u.num_panels; p0 += step) {
      const int num = u.num_panels - p0 < step ? u.num_panels - p0 : step;
      const QuantPanels panels = PanelsAt(u, p0, num);
      for (int64_t t = 0; t < num_tiles; ++t) {
        const int64_t begin = t * u.m / num_tiles;
        const int64_t rows = (t + 1) * u.m / num_tiles - begin;
        const QuantGroup* x[kQuantTileRows];
        for (int64_t r = 0; r < rows; ++r)
          x[r] = u.q + (u.row != nullptr ? u.row[begin + r] : begin + r) * u.ldq;
        PickQuantTile<kQuantTileRows>(q4, num_tiles == 1, rows, num)(
            panels, x, g0, g1, g0 + t, num_tiles, acc + begin * ldacc + p0 * 16, ldacc);
      }
    }
  }
}

}  // namespace atl::kernels::ATL_ISA
