#include "kernels/mla.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/exact_math.h"
#include "kernels/mla_paths.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

// What the cache makes of a position [R + Dr], by the header's words.
void CacheRounding(const MlaShape& shape, float* x) {
  const int64_t r = shape.kv_lora_rank, width = r + shape.qk_rope_head_dim;
  if (shape.cache_type == DType::kF32) return;
  for (int64_t i = shape.cache_type == DType::kBf16 ? 0 : r; i < width; ++i)
    x[i] = RoundToBf16(x[i]);
  if (shape.cache_type != DType::kF8E4M3) return;
  for (int64_t begin = 0; begin < r; begin += 128) {
    const int64_t end = std::min<int64_t>(begin + 128, r);
    float max = 0;
    for (int64_t i = begin; i < end; ++i) max = std::max(max, std::fabs(x[i]));
    const float factor = 448.0f / max, scale = max / 448.0f;
    for (int64_t i = begin; i < end; ++i) x[i] = F8E4M3ToF32(F32ToF8E4M3(x[i] * factor)) * scale;
  }
}

// One sequence's cache: blocks filled by StoreLatent, everything behind the last position NaN.
class Cache {
 public:
  Cache(const MlaShape& shape, int64_t positions, uint32_t seed) : shape_(shape) {
    const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
    keys_ = Random(positions * (r + dr), seed);
    for (int64_t b = 0; b * kCacheBlock < positions; ++b) {
      blocks_.emplace_back(CacheBlockBytes(shape), std::byte{0xff});  // NaN, scales too
    }
    for (auto& block : blocks_) pointers_.push_back(block.data());
    for (int64_t s = 0; s < positions; ++s) {
      StoreLatent(shape, &keys_[s * (r + dr)], &keys_[s * (r + dr) + r],
                  blocks_[s / kCacheBlock].data(), s % kCacheBlock);
    }
    for (int64_t s = 0; s < positions; ++s) CacheRounding(shape, &keys_[s * (r + dr)]);
  }
  Cache(const Cache&) = delete;

  const std::byte* const* block() const { return pointers_.data(); }
  const float* key(int64_t s) const {
    return &keys_[s * (shape_.kv_lora_rank + shape_.qk_rope_head_dim)];
  }

 private:
  const MlaShape shape_;
  std::vector<float> keys_;
  std::vector<std::vector<std::byte>> blocks_;
  std::vector<const std::byte*> pointers_;
};

struct State {
  float m = -std::numeric_limits<float>::infinity(), l = 0;
  std::vector<float> o;
};

// The header's order for one head, a scalar operation at a time.
std::vector<float> ByDefinition(const MlaShape& shape, const Cache& cache, int64_t position,
                                const float* q_latent, const float* q_rope) {
  const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  State total;
  for (int64_t segment = 0; segment <= position; segment += kSegment) {
    State s = {.o = std::vector<float>(r, 0.0f)};
    for (int64_t block = segment; block <= position && block < segment + kSegment;
         block += kCacheBlock) {
      std::vector<float> score;
      float max = s.m;
      for (int64_t i = block; i <= position && i < block + kCacheBlock; ++i) {
        float acc = 0;
        for (int64_t k = 0; k < r; ++k) acc = std::fma(q_latent[k], cache.key(i)[k], acc);
        for (int64_t k = 0; k < dr; ++k) acc = std::fma(q_rope[k], cache.key(i)[r + k], acc);
        score.push_back(acc * shape.softmax_scale);
        max = std::max(max, score.back());
      }
      const float worth = Exp(s.m - max);
      s.m = max;
      s.l *= worth;
      for (float& o : s.o) o *= worth;
      for (size_t i = 0; i < score.size(); ++i) {
        const float p = Exp(score[i] - max);
        s.l += p;
        for (int64_t k = 0; k < r; ++k) s.o[k] = std::fma(p, cache.key(block + i)[k], s.o[k]);
      }
    }
    if (segment == 0) {
      total = s;
      continue;
    }
    const float max = std::max(total.m, s.m), a = Exp(total.m - max), b = Exp(s.m - max);
    total.m = max;
    total.l = std::fma(s.l, b, total.l * a);
    for (int64_t k = 0; k < r; ++k) total.o[k] = std::fma(s.o[k], b, total.o[k] * a);
  }
  for (float& o : total.o) o /= total.l;
  return total.o;
}

std::vector<double> Naive(const MlaShape& shape, const Cache& cache, int64_t position,
                          const float* q_latent, const float* q_rope) {
  const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  std::vector<double> weight, out(r, 0.0);
  double max = -1e300, sum = 0;
  for (int64_t s = 0; s <= position; ++s) {
    double dot = 0;
    for (int64_t k = 0; k < r; ++k) dot += static_cast<double>(q_latent[k]) * cache.key(s)[k];
    for (int64_t k = 0; k < dr; ++k) dot += static_cast<double>(q_rope[k]) * cache.key(s)[r + k];
    weight.push_back(dot * shape.softmax_scale);
    max = std::max(max, weight.back());
  }
  for (double& w : weight) sum += w = std::exp(w - max);
  for (int64_t s = 0; s <= position; ++s) {
    for (int64_t k = 0; k < r; ++k) out[k] += weight[s] / sum * cache.key(s)[k];
  }
  return out;
}

std::vector<float> Attend(const KernelContext& ctx, const MlaShape& shape,
                          const std::vector<MlaRow>& rows, const std::vector<float>& q_latent,
                          const std::vector<float>& q_rope, Rounding rounding) {
  std::vector<float> out(q_latent.size()), scratch(MlaScratch(ctx, shape, rows), std::nanf(""));
  MlaAttend(ctx, shape, rows, q_latent.data(), q_rope.data(), out.data(), rounding, scratch.data());
  return out;
}

struct Way {
  const char* name;
  int64_t (*scratch)(const MlaCall&);
  void (*run)(const MlaCall&, float*);
};
const Way kWays[] = {{"rows", MlaByRowsScratch, MlaByRows},
                     {"segments", MlaBySegmentsScratch, MlaBySegments},
                     {"whole segments", MlaByWholeSegmentsScratch, MlaByWholeSegments}};

// One of the ways of MlaAttend, whatever it would choose itself.
std::vector<float> AttendBy(const Way& way, const KernelContext& ctx, const MlaShape& shape,
                            const std::vector<MlaRow>& rows, const std::vector<float>& q_latent,
                            const std::vector<float>& q_rope) {
  std::vector<float> out(q_latent.size());
  const MlaCall call = {.ctx = ctx,
                        .shape = shape,
                        .rows = rows,
                        .q_latent = q_latent.data(),
                        .q_rope = q_rope.data(),
                        .out = out.data()};
  std::vector<float> scratch(way.scratch(call), std::nanf(""));
  way.run(call, scratch.data());
  return out;
}

void ExpectDefinition(const MlaShape& shape, const std::vector<int32_t>& positions) {
  SCOPED_TRACE(testing::Message() << "H " << shape.num_heads << " R " << shape.kv_lora_rank
                                  << " Dr " << shape.qk_rope_head_dim);
  const int64_t h = shape.num_heads, r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  const int64_t t = static_cast<int64_t>(positions.size());
  const std::vector<float> q_latent = Random(t * h * r, 1, 2), q_rope = Random(t * h * dr, 2, 2);
  std::vector<std::unique_ptr<Cache>> caches;
  std::vector<MlaRow> rows;
  std::vector<float> expected;
  for (int64_t i = 0; i < t; ++i) {
    caches.push_back(std::make_unique<Cache>(shape, positions[i] + 1, 10 + i));
    rows.push_back({.block = caches[i]->block(), .position = positions[i]});
    for (int64_t head = i * h; head < (i + 1) * h; ++head) {
      const std::vector<float> out =
          ByDefinition(shape, *caches[i], positions[i], &q_latent[head * r], &q_rope[head * dr]);
      const std::vector<double> naive =
          Naive(shape, *caches[i], positions[i], &q_latent[head * r], &q_rope[head * dr]);
      // |key| <= 1; a score is a chain of R + Dr terms under 2, scaled: off by well under 2 (R +
      // Dr) eps (R + Dr)^-1/2 * few.
      for (int64_t k = 0; k < r; ++k)
        ASSERT_NEAR(out[k], naive[k], 4 * std::sqrt(r + dr) * 0x1p-22) << "head " << head;
      expected.insert(expected.end(), out.begin(), out.end());
    }
  }
  ForEachContext([&](const KernelContext& ctx) {
    ASSERT_TRUE(SameBits(Attend(ctx, shape, rows, q_latent, q_rope, Rounding::kNone), expected));
    ASSERT_TRUE(SameBits(Attend(ctx, shape, rows, q_latent, q_rope, Rounding::kBf16),
                         RoundedToBf16(expected)));
    for (const Way& way : kWays) {
      ASSERT_TRUE(SameBits(AttendBy(way, ctx, shape, rows, q_latent, q_rope), expected))
          << way.name;
    }
  });
}

MlaShape Shape(int64_t h, int64_t r, int64_t dr, DType type) {
  return {.num_heads = h,
          .kv_lora_rank = r,
          .qk_rope_head_dim = dr,
          .softmax_scale = 1.8f / std::sqrt(static_cast<float>(r + dr)),
          .cache_type = type};
}

TEST(Mla, HasTheBitsOfItsDefinition) {
  ExpectDefinition(Shape(4, 48, 8, DType::kF32), {0, 1, 63, 64, 65, 127, 200});
  ExpectDefinition(Shape(6, 136, 24, DType::kBf16), {5, 64, 130});
  ExpectDefinition(Shape(8, 40, 4, DType::kF32), {77});
  ExpectDefinition(Shape(16, 64, 16, DType::kBf16), {90, 12, 3});
  ExpectDefinition(Shape(1, 16, 2, DType::kF32), {70});
}

// Scales of whole and of broken 128s; R that is no multiple of 16, of 4, of anything.
TEST(Mla, HasTheBitsOfItsDefinitionOverFp8) {
  ExpectDefinition(Shape(4, 48, 8, DType::kF8E4M3), {0, 1, 63, 64, 65, 127, 200});
  ExpectDefinition(Shape(6, 136, 24, DType::kF8E4M3), {5, 64, 130});
  ExpectDefinition(Shape(2, 257, 6, DType::kF8E4M3), {77, 3});
  ExpectDefinition(Shape(16, 512, 64, DType::kF8E4M3), {66});
}

TEST(Mla, MoreHeadsThanAUnit) { ExpectDefinition(Shape(70, 24, 8, DType::kBf16), {66, 2}); }

TEST(Mla, SeveralSegments) {
  ExpectDefinition(Shape(4, 24, 8, DType::kBf16), {2500});
  ExpectDefinition(Shape(3, 16, 4, DType::kF32), {1023, 1024, 2048, 100});
  ExpectDefinition(Shape(3, 144, 4, DType::kF8E4M3), {1024, 2100});
}

// More segments than are in hand at a time; one row and many, which take different paths on a pool:
// the bits may not tell.
TEST(Mla, OneLongRowAloneAndAmongOthers) {
  const MlaShape shape = Shape(4, 32, 8, DType::kBf16);
  const int32_t position = 6 * 1024 + 77;
  const Cache cache(shape, position + 1, 3);
  const int64_t copies = 9;
  const std::vector<float> q_latent = Random(4 * 32, 4, 2), q_rope = Random(4 * 8, 5, 2);
  const std::vector<MlaRow> one = {{.block = cache.block(), .position = position}};
  const std::vector<MlaRow> many(copies, one[0]);
  auto repeat = [&](const std::vector<float>& x) {
    std::vector<float> all;
    for (int64_t i = 0; i < copies; ++i) all.insert(all.end(), x.begin(), x.end());
    return all;
  };
  const std::vector<float> expected =
      Attend(Context(Isa::kPortable), shape, one, q_latent, q_rope, Rounding::kNone);
  ForEachContext([&](const KernelContext& ctx) {
    EXPECT_TRUE(SameBits(Attend(ctx, shape, one, q_latent, q_rope, Rounding::kNone), expected));
    EXPECT_TRUE(
        SameBits(Attend(ctx, shape, many, repeat(q_latent), repeat(q_rope), Rounding::kNone),
                 repeat(expected)));
  });
}

// Rows of one sequence, which share what is widened: across the edges of blocks and of a segment,
// with and without lanes that no head has, among rows of another sequence.
TEST(Mla, ConsecutiveRowsOfASequence) {
  for (const int64_t heads : {3, 16, 20}) {
    for (const DType type : {DType::kBf16, DType::kF8E4M3}) {
      const MlaShape shape = Shape(heads, 32, 8, type);
      const Cache cache(shape, 1100, 31), other(shape, 80, 32);
      std::vector<MlaRow> rows = {{.block = other.block(), .position = 79}};
      for (const auto& [first, end] : {std::pair{0, 5}, {58, 70}, {1020, 1031}}) {
        for (int32_t p = first; p < end; ++p)
          rows.push_back({.block = cache.block(), .position = p});
      }
      const int64_t t = static_cast<int64_t>(rows.size());
      const std::vector<float> q_latent = Random(t * heads * 32, 33, 2),
                               q_rope = Random(t * heads * 8, 34, 2);
      std::vector<float> expected;
      for (int64_t i = 0; i < t * heads; ++i) {
        const std::vector<float> out =
            ByDefinition(shape, i < heads ? other : cache, rows[i / heads].position,
                         &q_latent[i * 32], &q_rope[i * 8]);
        expected.insert(expected.end(), out.begin(), out.end());
      }
      ForEachContext([&](const KernelContext& ctx) {
        ASSERT_TRUE(SameBits(Attend(ctx, shape, rows, q_latent, q_rope, Rounding::kNone), expected))
            << heads << " heads";
      });
    }
  }
}

class MlaCacheType : public testing::TestWithParam<DType> {};

TEST_P(MlaCacheType, KeysBeyondThePositionAreNotRead) {
  const MlaShape shape = Shape(4, 48, 8, GetParam());
  const Cache longer(shape, 192, 6),
      shorter(shape, 101, 6);  // the same keys as far as the shorter one goes, NaN behind
  const std::vector<float> q_latent = Random(4 * 48, 7), q_rope = Random(4 * 8, 8);
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> a =
        Attend(Context(isa), shape, {{.block = longer.block(), .position = 100}}, q_latent, q_rope,
               Rounding::kNone);
    const std::vector<float> b =
        Attend(Context(isa), shape, {{.block = shorter.block(), .position = 100}}, q_latent, q_rope,
               Rounding::kNone);
    EXPECT_TRUE(SameBits(a, b));
    for (float v : a) ASSERT_TRUE(std::isfinite(v));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, MlaCacheType,
                         testing::Values(DType::kF32, DType::kBf16, DType::kF8E4M3),
                         [](const auto& info) { return DTypeName(info.param); });

// Against attention in double over the latents as they were before any rounding: what the format
// may cost. |c_kv| <= 1 and so is every scale * 448: a code is off by 2^-4 of its value (3 bits
// behind the point, half a step), k_rope by 2^-9. Scores move by at most the sum of |q| times that,
// times the softmax's scale; a weight then by a factor e^(2 of it); so a convex sum of values up to
// 1 by that factor less 1, and by the 2^-4 of the values themselves.
TEST(Mla, Fp8IsAsFarFromTheLatentsAsItsRoundingAllows) {
  const MlaShape shape = Shape(3, 200, 8, DType::kF8E4M3);
  MlaShape exact = shape;
  exact.cache_type = DType::kF32;
  const int32_t position = 150;
  const Cache rounded(shape, position + 1, 21), as_it_was(exact, position + 1, 21);
  const std::vector<float> q_latent = Random(3 * 200, 22, 0.25f), q_rope = Random(3 * 8, 23, 0.25f);
  const std::vector<float> out =
      Attend(Context(BestIsa()), shape, {{.block = rounded.block(), .position = position}},
             q_latent, q_rope, Rounding::kNone);
  double worst = 0;
  for (int64_t h = 0; h < 3; ++h) {
    double moved = 0;
    for (int64_t k = 0; k < 200; ++k) moved += std::fabs(q_latent[h * 200 + k]) * 0x1p-4;
    for (int64_t k = 0; k < 8; ++k) moved += std::fabs(q_rope[h * 8 + k]) * 0x1p-9;
    const double bound = std::expm1(2 * moved * shape.softmax_scale) + 0x1p-4 + 1e-5;
    const std::vector<double> expected =
        Naive(exact, as_it_was, position, &q_latent[h * 200], &q_rope[h * 8]);
    for (int64_t k = 0; k < 200; ++k) {
      ASSERT_NEAR(out[h * 200 + k], expected[k], bound);
      worst = std::max(worst, std::fabs(out[h * 200 + k] - expected[k]));
    }
  }
  EXPECT_GT(worst, 1e-4) << "as near as float32: nothing was rounded to 8 bits";
}

TEST(Mla, LargeScoresDoNotOverflow) {
  MlaShape shape = Shape(2, 16, 4, DType::kF32);
  shape.softmax_scale = 500;  // scores in the hundreds and thousands: all the weight on one key
  const Cache cache(shape, 100, 9);
  const std::vector<float> q_latent = Random(2 * 16, 10, 3), q_rope = Random(2 * 4, 11, 3);
  for (Isa isa : SupportedIsas()) {
    const std::vector<float> out =
        Attend(Context(isa), shape, {{.block = cache.block(), .position = 99}}, q_latent, q_rope,
               Rounding::kNone);
    for (int64_t head = 0; head < 2; ++head) {
      const std::vector<double> naive =
          Naive(shape, cache, 99, &q_latent[head * 16], &q_rope[head * 4]);
      for (int64_t k = 0; k < 16; ++k) ASSERT_NEAR(out[head * 16 + k], naive[k], 1e-2);
    }
  }
}

}  // namespace
}  // namespace atl::kernels
