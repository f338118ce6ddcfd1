// 16 lanes of float32 in AVX-512 (F, BW, VL, DQ; VNNI where the including file is compiled for it).
#pragma once

#include <immintrin.h>

#include <cstdint>

#define ATL_INLINE static inline __attribute__((always_inline))

namespace atl::kernels::ATL_ISA {

struct V {
  __m512 v;
};

// Rows of the register tile, and how many panels go with that many rows: 6 x 4 accumulators, 4
// weights, 2 spare.
inline constexpr int kTileRows = 6;
constexpr int TilePanels(int /*rows*/) { return 4; }

ATL_INLINE V Zero() { return {_mm512_setzero_ps()}; }
ATL_INLINE V Set1(float x) { return {_mm512_set1_ps(x)}; }
ATL_INLINE V Load(const float* p) { return {_mm512_loadu_ps(p)}; }
ATL_INLINE __mmask16 FirstN(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
// The first n < 16 lanes; the others are 0.
ATL_INLINE V LoadN(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(FirstN(n), p)}; }
ATL_INLINE void Store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
ATL_INLINE void StoreN(float* p, V a, int64_t n) { _mm512_mask_storeu_ps(p, FirstN(n), a.v); }

ATL_INLINE V Add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
ATL_INLINE V Sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
ATL_INLINE V Mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
ATL_INLINE V Div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
ATL_INLINE V Fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
ATL_INLINE V Max(V a, V b) {
  return {_mm512_max_ps(a.v, b.v)};
}  // a > b ? a : b, so b if either is NaN

// a > b ? yes : no.
ATL_INLINE V IfGreater(V a, V b, V yes, V no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
ATL_INLINE V IfNan(V a, V yes, V no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), no.v, yes.v)};
}
ATL_INLINE uint32_t GreaterMask(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
ATL_INLINE uint32_t EqualMask(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }

// p times 2^n, n being the low bits of t (cpu/constants.h kRoundMagic).
ATL_INLINE V ScaleByMagic(V p, V t) {
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(_mm512_castps_si512(t.v), 23)))};
}

// Lanes i and i+8 are added, then i+4, i+2, i+1.
ATL_INLINE float ReduceAdd(V a) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}
ATL_INLINE float ReduceMax(V a) {
  const __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

// 16 pairs of bf16 (base/dtype.h): the lower and the upper half of each 32-bit lane.
ATL_INLINE V LowBf16(const uint32_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
ATL_INLINE V HighBf16(const uint32_t* p) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

// The bits of the bf16 nearest to each lane, ties to even, in the upper half; NaN stays NaN. The
// lower half is not cleared.
ATL_INLINE __m512i Bf16Bits(V a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), rounded, quiet);
}
ATL_INLINE V RoundBf16(V a) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(Bf16Bits(a), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
ATL_INLINE V LoadBf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
ATL_INLINE V LoadBf16N(const uint16_t* p, int64_t n) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(FirstN(n), p)), 16))};
}
ATL_INLINE void StoreBf16(uint16_t* p, V a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(Bf16Bits(a), 16)));
}
ATL_INLINE void StoreBf16N(uint16_t* p, V a, int64_t n) {
  _mm256_mask_storeu_epi16(p, FirstN(n), _mm512_cvtepi32_epi16(_mm512_srli_epi32(Bf16Bits(a), 16)));
}

// 16 lanes of int32, or 16 x 4 bytes.
struct Ints {
  __m512i v;
};

// Rows of the integer register tile, and panels with that many: 12 sums of a group, 12 of floats, 2
// or 4 weights, 1 input.
inline constexpr int kQuantTileRows = 6;
constexpr int QuantTilePanels(int rows) { return rows <= 3 ? 4 : 2; }

ATL_INLINE Ints SetInt(int32_t x) { return {_mm512_set1_epi32(x)}; }
ATL_INLINE V ToFloat(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
ATL_INLINE Ints LoadBytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
// Each byte's lower or upper four bits, times 16.
ATL_INLINE Ints LowNibbles(const uint8_t* p) {
  return {_mm512_and_si512(_mm512_slli_epi16(_mm512_loadu_si512(p), 4), _mm512_set1_epi8(-16))};
}
ATL_INLINE Ints HighNibbles(const uint8_t* p) {
  return {_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-16))};
}

// acc + the products of four unsigned bytes with four signed ones, exactly. Operands are made
// ready once and used for many sums.
#if defined(__AVX512VNNI__)
using Bytes = Ints;
ATL_INLINE Bytes Unsigned(Ints w) { return w; }
ATL_INLINE Bytes Signed(Ints x) { return x; }
ATL_INLINE Ints Dot4(Ints acc, Bytes w, Bytes x) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)};  // not dpbusds: nothing saturates
}
#else
struct Bytes {
  __m512i even, odd;  // as 16 bits: sums of two products fit in 32
};
ATL_INLINE Bytes Unsigned(Ints w) {
  return {_mm512_and_si512(w.v, _mm512_set1_epi16(255)), _mm512_srli_epi16(w.v, 8)};
}
ATL_INLINE Bytes Signed(Ints x) {
  return {_mm512_srai_epi16(_mm512_slli_epi16(x.v, 8), 8), _mm512_srai_epi16(x.v, 8)};
}
ATL_INLINE Ints Dot4(Ints acc, Bytes w, Bytes x) {
  const __m512i even = _mm512_madd_epi16(w.even, x.even), odd = _mm512_madd_epi16(w.odd, x.odd);
  return {_mm512_add_epi32(acc.v, _mm512_add_epi32(even, odd))};
}
#endif

// The largest of the lanes' bits without their sign: of a NaN above all, then infinity.
ATL_INLINE uint32_t MaxMagnitude(V a, V b) {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  return _mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a.v), mask),
                       _mm512_and_si512(_mm512_castps_si512(b.v), mask)));
}
// Lanes to the nearest integer, ties to even, at q [16]; returns their sum. |a| <= 127.
ATL_INLINE int32_t StoreInt8(int8_t* q, V a) {
  const __m512i ints = _mm512_cvtps_epi32(a.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(ints));
  return _mm512_reduce_add_epi32(ints);
}

}  // namespace atl::kernels::ATL_ISA
