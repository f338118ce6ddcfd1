// 16 lanes of float32 in two AVX2 registers (with FMA).
#pragma once

#include <immintrin.h>

#include <cstdint>

#define ATL_INLINE static inline __attribute__((always_inline))

namespace atl::kernels::ATL_ISA {

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

// p times 2^n, n being the low bits of t (cpu/constants.h kRoundMagic).
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

// 16 lanes of int32, or 16 x 4 bytes.
struct Ints {
  __m256i a, b;
};

// Rows of the integer register tile: of 16 registers 4 hold a group's sums and 4 the weights.
inline constexpr int kQuantTileRows = 2;
constexpr int QuantTilePanels(int rows) { return rows == 1 ? 2 : 1; }

ATL_INLINE Ints SetInt(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
ATL_INLINE V ToFloat(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
ATL_INLINE Ints LoadBytes(const uint8_t* p) { return {LoadInts(p), LoadInts(p + 32)}; }
// Each byte's lower or upper four bits, times 16.
ATL_INLINE Ints LowNibbles(const uint8_t* p) {
  const __m256i mask = _mm256_set1_epi8(-16);
  return {_mm256_and_si256(_mm256_slli_epi16(LoadInts(p), 4), mask),
          _mm256_and_si256(_mm256_slli_epi16(LoadInts(p + 32), 4), mask)};
}
ATL_INLINE Ints HighNibbles(const uint8_t* p) {
  const __m256i mask = _mm256_set1_epi8(-16);
  return {_mm256_and_si256(LoadInts(p), mask), _mm256_and_si256(LoadInts(p + 32), mask)};
}

// acc + the products of four unsigned bytes with four signed ones, exactly: as 16 bits, for
// vpmaddubsw would saturate. Operands are made ready once and used for many sums.
struct Bytes {
  Ints even, odd;
};
ATL_INLINE Bytes Unsigned(Ints w) {
  const __m256i mask = _mm256_set1_epi16(255);
  return {{_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)},
          {_mm256_srli_epi16(w.a, 8), _mm256_srli_epi16(w.b, 8)}};
}
ATL_INLINE Bytes Signed(Ints x) {
  return {{_mm256_srai_epi16(_mm256_slli_epi16(x.a, 8), 8),
           _mm256_srai_epi16(_mm256_slli_epi16(x.b, 8), 8)},
          {_mm256_srai_epi16(x.a, 8), _mm256_srai_epi16(x.b, 8)}};
}
ATL_INLINE __m256i Dot4Half(__m256i acc, __m256i we, __m256i wo, __m256i xe, __m256i xo) {
  return _mm256_add_epi32(acc,
                          _mm256_add_epi32(_mm256_madd_epi16(we, xe), _mm256_madd_epi16(wo, xo)));
}
ATL_INLINE Ints Dot4(Ints acc, Bytes w, Bytes x) {
  return {Dot4Half(acc.a, w.even.a, w.odd.a, x.even.a, x.odd.a),
          Dot4Half(acc.b, w.even.b, w.odd.b, x.even.b, x.odd.b)};
}

// The largest of the lanes' bits without their sign: of a NaN above all, then infinity.
ATL_INLINE uint32_t MaxMagnitude(V x, V y) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  const auto bits = [mask](__m256 f) { return _mm256_and_si256(_mm256_castps_si256(f), mask); };
  const __m256i m8 = _mm256_max_epi32(_mm256_max_epi32(bits(x.a), bits(x.b)),
                                      _mm256_max_epi32(bits(y.a), bits(y.b)));
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
// Lanes to the nearest integer, ties to even, at q [16]; returns their sum. |x| <= 127.
ATL_INLINE int32_t StoreInt8(int8_t* q, V x) {
  const __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(q),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  const __m256i s8 = _mm256_add_epi32(a, b);
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

}  // namespace atl::kernels::ATL_ISA
