#include "kernels/ffn.h"

#include <cmath>

#include "kernels/exact_math.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

// Weights of one expert, packed and plain.
struct Expert {
  int64_t d, f;
  std::vector<float> gate, up, down;
  FfnWeights packed;
};

// gate and up of one format, down of another.
Expert MakeExpert(WeightFormat wide, WeightFormat last, int64_t d, int64_t f, uint32_t seed) {
  Expert e = {.d = d,
              .f = f,
              .gate = Random(f * d, seed),
              .up = Random(f * d, seed + 1),
              .down = Random(d * f, seed + 2)};
  if (wide == WeightFormat::kBf16) {
    for (auto* w : {&e.gate, &e.up}) *w = RoundedToBf16(*w);
  }
  if (last == WeightFormat::kBf16) e.down = RoundedToBf16(e.down);
  e.packed.gate = Pack(wide, f, d, e.gate);
  e.packed.up = Pack(wide, f, d, e.up);
  e.packed.down = Pack(last, d, f, e.down);
  return e;
}
Expert MakeExpert(WeightFormat format, int64_t d, int64_t f, uint32_t seed) {
  return MakeExpert(format, format, d, f, seed);
}

float Chain(const float* x, const float* w, int64_t k) {
  float acc = 0;
  for (int64_t i = 0; i < k; ++i) acc = std::fma(x[i], w[i], acc);
  return acc;
}

// The header's formula for one row, an operation at a time.
std::vector<float> OneRow(const Expert& e, const float* x, Rounding act, Rounding round) {
  std::vector<float> h(e.f), out(e.d);
  for (int64_t i = 0; i < e.f; ++i) {
    const float gate = Chain(x, &e.gate[i * e.d], e.d), up = Chain(x, &e.up[i * e.d], e.d);
    h[i] = gate * Sigmoid(gate) * up;
    if (act == Rounding::kBf16) h[i] = RoundToBf16(h[i]);
  }
  for (int64_t i = 0; i < e.d; ++i) {
    out[i] = Chain(h.data(), &e.down[i * e.f], e.f);
    if (round == Rounding::kBf16) out[i] = RoundToBf16(out[i]);
  }
  return out;
}

void Check(const std::vector<Expert>& experts, const std::vector<std::vector<int32_t>>& rows,
           bool gather, Rounding act, Rounding round) {
  const int64_t d = experts[0].d, ldx = d + 2, ldo = d + 1, num_rows = 17;
  const std::vector<float> x = RoundedToBf16(Random(num_rows * ldx, 99, 0.5));
  std::vector<std::vector<float>> expected;
  for (size_t j = 0; j < experts.size(); ++j) {
    for (size_t i = 0; i < rows[j].size(); ++i) {
      expected.push_back(OneRow(
          experts[j], &x[(gather ? rows[j][i] : static_cast<int32_t>(i)) * ldx], act, round));
    }
  }
  ForEachContext([&](const KernelContext& ctx) {
    std::vector<FfnJob> jobs;
    std::vector<std::vector<float>> out;
    for (size_t j = 0; j < experts.size(); ++j) {
      const int64_t m = static_cast<int64_t>(rows[j].size());
      out.emplace_back(m * ldo);
      jobs.push_back({.w = &experts[j].packed,
                      .x = x.data(),
                      .ldx = ldx,
                      .row = gather ? rows[j].data() : nullptr,
                      .m = m,
                      .out = out[j].data(),
                      .ldo = ldo});
    }
    std::vector<float> scratch(GroupedFfnScratch(jobs));
    GroupedFfn(ctx, jobs, act, round, scratch.data());
    size_t at = 0;
    for (size_t j = 0; j < experts.size(); ++j) {
      for (size_t i = 0; i < rows[j].size(); ++i, ++at) {
        ASSERT_TRUE(SameBits(std::span(&out[j][i * ldo], d), expected[at]))
            << "job " << j << " row " << i;
      }
    }
  });
}

TEST(GroupedFfn, HasTheBitsOfItsDefinition) {
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16}) {
    std::vector<Expert> experts;
    std::vector<std::vector<int32_t>> rows;
    const int64_t f[] = {16, 40, 72, 33, 24, 136};
    for (int64_t j = 0; j < 6; ++j) {
      experts.push_back(MakeExpert(format, 44, f[j], 10 * j));
      rows.emplace_back();
      for (int64_t i = 0; i < (j == 4 ? 0 : 1 + 3 * j); ++i)
        rows[j].push_back(static_cast<int32_t>((7 * i + j) % 17));
    }
    Check(experts, rows, /*gather=*/true, Rounding::kBf16, Rounding::kBf16);
    Check(experts, rows, /*gather=*/false, Rounding::kNone, Rounding::kNone);
    Check(experts, rows, /*gather=*/true, Rounding::kNone, Rounding::kBf16);
  }
}

// As a checkpoint of several types gives them: each job has formats of its own.
TEST(GroupedFfn, JobsOfMixedFormats) {
  constexpr WeightFormat kF32 = WeightFormat::kF32, kBf16 = WeightFormat::kBf16;
  const std::vector<Expert> experts = {
      MakeExpert(kF32, kBf16, 44, 40, 1), MakeExpert(kBf16, kF32, 44, 72, 11),
      MakeExpert(kBf16, kBf16, 44, 33, 21), MakeExpert(kF32, kF32, 44, 16, 31)};
  const std::vector<std::vector<int32_t>> rows = {{0, 3, 16}, {1, 2, 3, 4, 5, 6, 7}, {9}, {0, 16}};
  Check(experts, rows, /*gather=*/true, Rounding::kNone, Rounding::kNone);
  Check(experts, rows, /*gather=*/false, Rounding::kBf16, Rounding::kBf16);
}

TEST(GroupedFfn, ManyRowsOfOneExpert) {
  Expert e = MakeExpert(WeightFormat::kBf16, 24, 40, 5);
  const int64_t m = 401;
  const std::vector<float> x = RoundedToBf16(Random(m * e.d, 6));
  std::vector<float> expected;
  for (int64_t i = 0; i < m; ++i) {
    const std::vector<float> row = OneRow(e, &x[i * e.d], Rounding::kBf16, Rounding::kNone);
    expected.insert(expected.end(), row.begin(), row.end());
  }
  ForEachContext([&](const KernelContext& ctx) {
    std::vector<float> out(m * e.d);
    const FfnJob job = {
        .w = &e.packed, .x = x.data(), .ldx = e.d, .m = m, .out = out.data(), .ldo = e.d};
    std::vector<float> scratch(GroupedFfnScratch(std::span(&job, 1)));
    GroupedFfn(ctx, std::span(&job, 1), Rounding::kBf16, Rounding::kNone, scratch.data());
    ASSERT_TRUE(SameBits(out, expected));
  });
}

TEST(GroupedFfn, IsSwiglu) {
  const Expert e = MakeExpert(WeightFormat::kF32, 64, 48, 7);
  const std::vector<float> x = Random(e.d, 8);
  std::vector<float> out(e.d);
  const FfnJob job = {
      .w = &e.packed, .x = x.data(), .ldx = e.d, .m = 1, .out = out.data(), .ldo = e.d};
  std::vector<float> scratch(GroupedFfnScratch(std::span(&job, 1)));
  GroupedFfn(Context(BestIsa()), std::span(&job, 1), Rounding::kNone, Rounding::kNone,
             scratch.data());
  std::vector<double> h(e.f);
  for (int64_t i = 0; i < e.f; ++i) {
    double gate = 0, up = 0;
    for (int64_t k = 0; k < e.d; ++k) {
      gate += static_cast<double>(x[k]) * e.gate[i * e.d + k];
      up += static_cast<double>(x[k]) * e.up[i * e.d + k];
    }
    h[i] = gate / (1 + std::exp(-gate)) * up;
  }
  for (int64_t i = 0; i < e.d; ++i) {
    double exact = 0, norm = 0;
    for (int64_t k = 0; k < e.f; ++k) {
      exact += h[k] * e.down[i * e.f + k];
      norm += std::abs(h[k]) +
              1;  // h itself is off by a few eps of its terms, which are up to a few units
    }
    ASSERT_NEAR(out[i], exact, norm * 64 * 0x1p-23);
  }
}

}  // namespace
}  // namespace atl::kernels
