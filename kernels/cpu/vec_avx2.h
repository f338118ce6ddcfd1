// 16 lanes of float32 in two AVX2 registers (with FMA).
#pragma once

#include <immintrin.h>

#include <cstdint>

#define ATL_INLINE static inline __attribute__((always_inline))

namespace atl::kernels::avx2 {

struct V {
  __m256 a, b;  // lanes 0..7 and 8..15
};

// 16 registers: 6 x 1 accumulators of two registers each, or 2 x 2, or 1 x 4.
inline constexpr int kTileRows = 6;
constexpr int TilePanels(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

ATL_INLINE V Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
ATL_INLINE V Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ATL_INLINE V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ATL_INLINE void Store(float* p, V x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
// The first n < 16 lanes; the others are 0.
ATL_INLINE V LoadN(const float* p, int64_t n) {
  alignas(32) float lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return Load(lanes);
}
ATL_INLINE void StoreN(float* p, V x, int64_t n) {
  alignas(32) float lanes[16];
  Store(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

ATL_INLINE V Add(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
ATL_INLINE V Sub(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
ATL_INLINE V Mul(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
ATL_INLINE V Div(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
ATL_INLINE V Fma(V x, V y, V z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
ATL_INLINE V Max(V x, V y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}  // x > y ? x : y

// x > y ? yes : no.
ATL_INLINE V IfGreater(V x, V y, V yes, V no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}
ATL_INLINE V IfNan(V x, V yes, V no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))};
}
ATL_INLINE uint32_t Mask(__m256 a, __m256 b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(a)) | static_cast<uint32_t>(_mm256_movemask_ps(b))
                                                            << 8;
}
ATL_INLINE uint32_t GreaterMask(V x, V y) {
  return Mask(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ));
}
ATL_INLINE uint32_t EqualMask(V x, V y) {
  return Mask(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
}

// p times 2^n, n being the low bits of t (cpu/constants.h kExpMagic).
ATL_INLINE __m256 ScaleByMagic8(__m256 p, __m256 t) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
ATL_INLINE V ScaleByMagic(V p, V t) { return {ScaleByMagic8(p.a, t.a), ScaleByMagic8(p.b, t.b)}; }

// Lanes i and i+8 are added, then i+4, i+2, i+1.
ATL_INLINE float ReduceAdd(V x) {
  const __m256 s8 = _mm256_add_ps(x.a, x.b);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}
ATL_INLINE float ReduceMax(V x) {
  const __m256 s8 = _mm256_max_ps(x.a, x.b);
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

// 16 pairs of bf16 (base/dtype.h): the lower and the upper half of each 32-bit lane.
ATL_INLINE __m256i LoadInts(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
ATL_INLINE V LowBf16(const uint32_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(LoadInts(p), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(LoadInts(p + 8), 16))};
}
ATL_INLINE V HighBf16(const uint32_t* p) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(LoadInts(p), mask)),
          _mm256_castsi256_ps(_mm256_and_si256(LoadInts(p + 8), mask))};
}

// The bits of the bf16 nearest to each lane, ties to even, in the upper half; NaN stays NaN. The
// lower half is not cleared.
ATL_INLINE __m256i Bf16Bits8(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
ATL_INLINE V RoundBf16(V x) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(Bf16Bits8(x.a), mask)),
          _mm256_castsi256_ps(_mm256_and_si256(Bf16Bits8(x.b), mask))};
}
ATL_INLINE __m256 WidenBf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
ATL_INLINE V LoadBf16(const uint16_t* p) {
  return {WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
ATL_INLINE V LoadBf16N(const uint16_t* p, int64_t n) {
  alignas(32) uint16_t lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return LoadBf16(lanes);
}
ATL_INLINE void StoreBf16(uint16_t* p, V x) {
  const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(Bf16Bits8(x.a), 16),
                                             _mm256_srli_epi32(Bf16Bits8(x.b), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
ATL_INLINE void StoreBf16N(uint16_t* p, V x, int64_t n) {
  alignas(32) uint16_t lanes[16];
  StoreBf16(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

}  // namespace atl::kernels::avx2
