#include "kernels/mla_expanded.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/exact_math.h"
#include "kernels/matmul.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

struct Dims {
  int64_t h, r, dn, dr, dv;
  DType cache = DType::kBf16;
  WeightFormat format = WeightFormat::kBf16;
  Rounding rounding = Rounding::kBf16;
};

ExpandedShape ShapeOf(const Dims& d) {
  return {.latent = {.num_heads = d.h,
                     .kv_lora_rank = d.r,
                     .qk_rope_head_dim = d.dr,
                     .softmax_scale = 1.7f / std::sqrt(static_cast<float>(d.dn + d.dr)),
                     .cache_type = d.cache},
          .qk_nope_head_dim = d.dn,
          .v_head_dim = d.dv};
}

// A sequence with latents, queries and weights.
struct Case {
  Case(const Dims& dims, int64_t positions)
      : d(dims),
        shape(ShapeOf(dims)),
        q(Random(positions * d.h * (d.dn + d.dr), 1, 2)),
        q_rope(Random(positions * d.h * d.dr, 2, 2)),
        latents(Random(positions * (d.r + d.dr), 3)) {
    for (int64_t h = 0; h < d.h; ++h) {
      uk.push_back(Pack(d.dn, static_cast<uint32_t>(10 + h)));
      uv.push_back(Pack(d.dv, static_cast<uint32_t>(1000 + h)));
    }
    Store(positions);
  }

  PackedMatrix Pack(int64_t n, uint32_t seed) const {
    const std::vector<float> rows = Random(n * d.r, seed, 0.3f);
    PackedMatrix packed(d.format, n, d.r);
    for (int64_t i = 0; i < packed.num_panels(); ++i)
      packed.FillPanel(i, rows.data() + i * PackedMatrix::kPanel * d.r);
    return packed;
  }

  // Positions from `num` on stay NaN.
  void Store(int64_t num) {
    blocks.clear();
    pointers.clear();
    for (int64_t b = 0; b * kCacheBlock < num; ++b)
      blocks.emplace_back(CacheBlockBytes(shape.latent), std::byte{0xff});
    for (auto& block : blocks) pointers.push_back(block.data());
    for (int64_t s = 0; s < num; ++s) {
      const float* at = &latents[s * (d.r + d.dr)];
      StoreLatent(shape.latent, at, at + d.r, blocks[s / kCacheBlock].data(), s % kCacheBlock);
    }
  }

  // Rows of positions [first, end).
  std::vector<float> Attend(const KernelContext& ctx, int64_t first, int64_t end) const {
    const ExpandedRun run = {.block = pointers.data(),
                             .first = static_cast<int32_t>(first),
                             .num_rows = static_cast<int32_t>(end - first)};
    std::vector<float> out((end - first) * d.h * d.dv),
        scratch(MlaExpandedScratch(ctx, shape, run), std::nanf(""));
    MlaExpanded(ctx, shape, {.w_uk = uk, .w_uv = uv}, run, &q[first * d.h * (d.dn + d.dr)],
                &q_rope[first * d.h * d.dr], out.data(), d.rounding, scratch.data());
    return out;
  }

  Dims d;
  ExpandedShape shape;
  std::vector<float> q, q_rope, latents;
  std::vector<PackedMatrix> uk, uv;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<const std::byte*> pointers;
};

float Rounded(const Case& c, float x) {
  return c.d.rounding == Rounding::kBf16 ? RoundToBf16(x) : x;
}

// Latent `s` as the cache has it, by attending to nothing else: absorbed, one head with a query of
// 0 gives c_kv itself; k_rope is bf16 or float32.
std::vector<float> CachedLatent(const Case& c, int64_t s) {
  const int64_t r = c.d.r, dr = c.d.dr;
  const float* x = &c.latents[s * (r + dr)];
  std::vector<std::byte> block(CacheBlockBytes(c.shape.latent));
  StoreLatent(c.shape.latent, x, x + r, block.data(), 0);
  MlaShape one = c.shape.latent;
  one.num_heads = 1;
  const std::byte* blocks[] = {block.data()};
  const MlaRow row = {.block = blocks, .position = 0};
  const std::vector<float> zero(std::max(r, dr), 0.0f);
  std::vector<float> out(r + dr), scratch(MlaScratch(Context(Isa::kPortable), one, {&row, 1}));
  MlaAttend(Context(Isa::kPortable), one, {&row, 1}, zero.data(), zero.data(), out.data(),
            Rounding::kNone, scratch.data());
  for (int64_t i = 0; i < dr; ++i)
    out[r + i] = c.d.cache == DType::kF32 ? x[r + i] : RoundToBf16(x[r + i]);
  return out;
}

// y [N] = round(W x). Quantised: the portable kernel, whose own test has a definition.
std::vector<float> Product(const Case& c, const PackedMatrix& w, std::vector<float> x) {
  std::vector<float> y(w.n()), row(w.k());
  x.resize(w.k());
  for (float& v : x) v = Rounded(c, v);
  if (IsQuantized(w.format())) {
    MatMul(Context(Isa::kPortable),
           {.w = &w, .x = x.data(), .ldx = w.k(), .m = 1, .y = y.data(), .ldy = w.n()});
  }
  for (int64_t n = 0; n < w.n() && !IsQuantized(w.format()); ++n) {
    w.ReadRow(n, row.data());
    for (int64_t k = 0; k < w.k(); ++k) y[n] = std::fma(x[k], row[k], y[n]);
  }
  for (float& v : y) v = Rounded(c, v);
  return y;
}

struct State {
  float m = -std::numeric_limits<float>::infinity(), l = 0;
  std::vector<float> o;
};

// The header's order for one row and head, a scalar operation at a time. key [S][Dn + Dr], value
// [S][Dv].
std::vector<float> ByDefinition(const Case& c, int64_t position, int64_t head,
                                const std::vector<std::vector<float>>& key,
                                const std::vector<std::vector<float>>& value) {
  const int64_t dn = c.d.dn, dr = c.d.dr, dv = c.d.dv;
  const float* q = &c.q[(position * c.d.h + head) * (dn + dr)];
  const float* q_rope = &c.q_rope[(position * c.d.h + head) * dr];
  State total;
  for (int64_t segment = 0; segment <= position; segment += kSegment) {
    State s = {.o = std::vector<float>(dv, 0.0f)};
    for (int64_t block = segment; block <= position && block < segment + kSegment;
         block += kCacheBlock) {
      std::vector<float> score;
      float max = s.m;
      for (int64_t i = block; i <= position && i < block + kCacheBlock; ++i) {
        float acc = 0;
        for (int64_t k = 0; k < dn; ++k) acc = std::fma(q[k], key[i][k], acc);
        for (int64_t k = 0; k < dr; ++k) acc = std::fma(q_rope[k], key[i][dn + k], acc);
        score.push_back(acc * c.shape.latent.softmax_scale);
        max = std::max(max, score.back());
      }
      const float worth = Exp(s.m - max);
      s.m = max;
      s.l *= worth;
      for (float& o : s.o) o *= worth;
      for (size_t i = 0; i < score.size(); ++i) {
        const float p = Exp(score[i] - max);
        s.l += p;
        for (int64_t k = 0; k < dv; ++k) s.o[k] = std::fma(p, value[block + i][k], s.o[k]);
      }
    }
    if (segment == 0) {
      total = s;
      continue;
    }
    const float max = std::max(total.m, s.m), a = Exp(total.m - max), b = Exp(s.m - max);
    total.m = max;
    total.l = std::fma(s.l, b, total.l * a);
    for (int64_t k = 0; k < dv; ++k) total.o[k] = std::fma(s.o[k], b, total.o[k] * a);
  }
  for (float& o : total.o) o = Rounded(c, o / total.l);
  return total.o;
}

// Rows [first, end) of all heads.
std::vector<float> ByDefinition(const Case& c, int64_t first, int64_t end) {
  std::vector<float> out((end - first) * c.d.h * c.d.dv);
  for (int64_t head = 0; head < c.d.h; ++head) {
    std::vector<std::vector<float>> key, value;
    for (int64_t s = 0; s < end; ++s) {
      const std::vector<float> latent = CachedLatent(c, s);
      key.push_back(Product(c, c.uk[head], latent));
      key.back().insert(key.back().end(), latent.begin() + c.d.r, latent.end());
      value.push_back(Product(c, c.uv[head], latent));
    }
    for (int64_t t = first; t < end; ++t) {
      const std::vector<float> row = ByDefinition(c, t, head, key, value);
      std::copy(row.begin(), row.end(), out.begin() + ((t - first) * c.d.h + head) * c.d.dv);
    }
  }
  return out;
}

void ExpectDefinition(const Dims& d, int64_t first, int64_t end) {
  SCOPED_TRACE(testing::Message() << "H " << d.h << " R " << d.r << " Dn " << d.dn << " Dv " << d.dv
                                  << " rows " << first << " to " << end);
  const Case c(d, end);
  const std::vector<float> expected = ByDefinition(c, first, end);
  ForEachContext([&](const KernelContext& ctx) {
    ASSERT_TRUE(SameBits(c.Attend(ctx, first, end), expected));
  });
}

TEST(MlaExpanded, HasTheBitsOfItsDefinition) {
  ExpectDefinition({.h = 4, .r = 48, .dn = 16, .dr = 8, .dv = 16}, 0, 1);
  ExpectDefinition({.h = 4, .r = 48, .dn = 16, .dr = 8, .dv = 16}, 0, 130);
  ExpectDefinition({.h = 2, .r = 40, .dn = 10, .dr = 6, .dv = 20}, 63, 66);
  ExpectDefinition({.h = 3,
                    .r = 33,
                    .dn = 7,
                    .dr = 2,
                    .dv = 5,
                    .cache = DType::kF32,
                    .format = WeightFormat::kF32,
                    .rounding = Rounding::kNone},
                   5, 100);
}

TEST(MlaExpanded, OverFp8AndWithWeightsOf8Bits) {
  ExpectDefinition({.h = 2, .r = 136, .dn = 16, .dr = 8, .dv = 16, .cache = DType::kF8E4M3}, 60,
                   90);
  ExpectDefinition({.h = 2,
                    .r = 64,
                    .dn = 32,
                    .dr = 8,
                    .dv = 16,
                    .cache = DType::kF8E4M3,
                    .format = WeightFormat::kQ8,
                    .rounding = Rounding::kNone},
                   0, 70);
}

TEST(MlaExpanded, MoreHeadsThanAreHeldAtOnce) {
  ExpectDefinition({.h = 35, .r = 16, .dn = 8, .dr = 2, .dv = 8}, 30, 70);
}

TEST(MlaExpanded, SeveralSegments) {
  ExpectDefinition({.h = 2, .r = 16, .dn = 8, .dr = 2, .dv = 8}, 1000, 1100);
  ExpectDefinition({.h = 1, .r = 16, .dn = 8, .dr = 2, .dv = 8}, 2110, 2114);
}

// The same function as absorbed attention between its products, in double and by another order:
// softmax(q_nope W_UK c + q_rope k_rope) over W_UV c.
TEST(MlaExpanded, AgreesWithTheAbsorbedFormInDouble) {
  const Dims d = {.h = 3,
                  .r = 64,
                  .dn = 24,
                  .dr = 8,
                  .dv = 20,
                  .cache = DType::kF32,
                  .format = WeightFormat::kF32,
                  .rounding = Rounding::kNone};
  const int64_t position = 140;
  const Case c(d, position + 1);
  const std::vector<float> out = c.Attend(Context(BestIsa()), position, position + 1);
  for (int64_t h = 0; h < d.h; ++h) {
    const float* q = &c.q[(position * d.h + h) * (d.dn + d.dr)];
    std::vector<double> q_latent(d.r), o_latent(d.r), weight;
    std::vector<float> row(d.r);
    for (int64_t i = 0; i < d.dn; ++i) {
      c.uk[h].ReadRow(i, row.data());
      for (int64_t k = 0; k < d.r; ++k) q_latent[k] += static_cast<double>(q[i]) * row[k];
    }
    double sum = 0;
    for (int64_t s = 0; s <= position; ++s) {
      const float* x = &c.latents[s * (d.r + d.dr)];
      double dot = 0;
      for (int64_t k = 0; k < d.r; ++k) dot += q_latent[k] * x[k];
      for (int64_t k = 0; k < d.dr; ++k)
        dot += static_cast<double>(c.q_rope[(position * d.h + h) * d.dr + k]) * x[d.r + k];
      weight.push_back(std::exp(dot * c.shape.latent.softmax_scale));
      sum += weight.back();
      for (int64_t k = 0; k < d.r; ++k) o_latent[k] += weight.back() * x[k];
    }
    for (int64_t i = 0; i < d.dv; ++i) {
      double expected = 0;
      c.uv[h].ReadRow(i, row.data());
      for (int64_t k = 0; k < d.r; ++k) expected += o_latent[k] / sum * row[k];
      // Sums of 64 products under 0.3, over scores of some units with 2^-24 of relative error each.
      ASSERT_NEAR(out[h * d.dv + i], expected, 1e-4) << "head " << h;
    }
  }
}

TEST(MlaExpanded, BitsDoNotDependOnHowThePromptIsCut) {
  const Dims d = {.h = 3, .r = 32, .dn = 16, .dr = 4, .dv = 16, .cache = DType::kF8E4M3};
  const int64_t total = 1200;
  const Case c(d, total);
  const std::vector<float> expected = c.Attend(Context(Isa::kPortable), 0, total);
  for (Isa isa : SupportedIsas()) {
    for (const int64_t chunk : {7, 64, 100, 512}) {
      std::vector<float> found;
      for (int64_t at = 0; at < total; at += chunk) {
        const std::vector<float> part = c.Attend(Context(isa), at, std::min(total, at + chunk));
        found.insert(found.end(), part.begin(), part.end());
      }
      ASSERT_TRUE(SameBits(found, expected)) << IsaName(isa) << " chunks of " << chunk;
    }
    // A row at a time, around the edges of a block and of a segment.
    for (const int64_t t : {0, 1, 63, 64, 65, 1023, 1024, 1199}) {
      const std::span<const float> row(&expected[t * d.h * d.dv], d.h * d.dv);
      ASSERT_TRUE(SameBits(c.Attend(Context(isa), t, t + 1), row)) << IsaName(isa) << " row " << t;
    }
  }
}

// Not even when they are not finite, nor when nothing was ever stored there.
TEST(MlaExpanded, LaterPositionsDoNotReachEarlierRows) {
  const Dims d = {.h = 2,
                  .r = 32,
                  .dn = 16,
                  .dr = 4,
                  .dv = 16,
                  .cache = DType::kF32,
                  .format = WeightFormat::kF32,
                  .rounding = Rounding::kNone};
  const Case clean(d, 80);
  Case spoilt(d, 80);
  for (int64_t i = 0; i < 32; ++i)
    spoilt.latents[70 * 36 + i] = std::numeric_limits<float>::infinity();
  spoilt.Store(80);
  Case shorter(d, 80);
  shorter.Store(70);
  ForEachContext([&](const KernelContext& ctx) {
    const std::vector<float> expected = clean.Attend(ctx, 0, 70);
    std::vector<float> found = spoilt.Attend(ctx, 0, 80);
    EXPECT_TRUE(std::isnan(found.back()));
    found.resize(expected.size());
    EXPECT_TRUE(SameBits(found, expected));
    EXPECT_TRUE(SameBits(shorter.Attend(ctx, 0, 70), expected));
  });
}

}  // namespace
}  // namespace atl::kernels
