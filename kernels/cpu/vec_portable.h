// 16 lanes of float32 in plain C++: what the vector forms must equal, on any machine.
#pragma once

#include <cstdint>

#include "kernels/cpu/constants.h"

#define ATL_INLINE static inline __attribute__((always_inline))

namespace atl::kernels::ATL_ISA {

struct V {
  float v[16];
};

inline constexpr int kTileRows = 4;
constexpr int TilePanels(int /*rows*/) { return 1; }

ATL_INLINE uint32_t ToBits(float x) { return __builtin_bit_cast(uint32_t, x); }
ATL_INLINE float FromBits(uint32_t x) { return __builtin_bit_cast(float, x); }

// A vector of f(i) for each lane i.
template <typename F>
ATL_INLINE V Lanes(F f) {
  V r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}

ATL_INLINE V Zero() { return V{}; }
ATL_INLINE V Set1(float x) {
  return Lanes([x](int) { return x; });
}
ATL_INLINE V Load(const float* p) {
  return Lanes([p](int i) { return p[i]; });
}
// The first n < 16 lanes; the others are 0.
ATL_INLINE V LoadN(const float* p, int64_t n) {
  return Lanes([=](int i) { return i < n ? p[i] : 0.0f; });
}
ATL_INLINE void StoreN(float* p, const V& a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}
ATL_INLINE void Store(float* p, const V& a) { StoreN(p, a, 16); }

ATL_INLINE V Add(const V& a, const V& b) {
  return Lanes([&](int i) { return a.v[i] + b.v[i]; });
}
ATL_INLINE V Sub(const V& a, const V& b) {
  return Lanes([&](int i) { return a.v[i] - b.v[i]; });
}
ATL_INLINE V Mul(const V& a, const V& b) {
  return Lanes([&](int i) { return a.v[i] * b.v[i]; });
}
ATL_INLINE V Div(const V& a, const V& b) {
  return Lanes([&](int i) { return a.v[i] / b.v[i]; });
}
ATL_INLINE V Fma(const V& a, const V& b, const V& c) {
  return Lanes([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
ATL_INLINE V Max(const V& a, const V& b) {
  return Lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}

// a > b ? yes : no.
ATL_INLINE V IfGreater(const V& a, const V& b, const V& yes, const V& no) {
  return Lanes([&](int i) { return a.v[i] > b.v[i] ? yes.v[i] : no.v[i]; });
}
ATL_INLINE V IfNan(const V& a, const V& yes, const V& no) {
  return Lanes([&](int i) { return a.v[i] != a.v[i] ? yes.v[i] : no.v[i]; });
}
ATL_INLINE uint32_t GreaterMask(const V& a, const V& b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.v[i] > b.v[i]) << i;
  return mask;
}
ATL_INLINE uint32_t EqualMask(const V& a, const V& b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.v[i] == b.v[i]) << i;
  return mask;
}

// p times 2^n, n being the low bits of t (cpu/constants.h kRoundMagic).
ATL_INLINE V ScaleByMagic(const V& p, const V& t) {
  return Lanes([&](int i) { return FromBits(ToBits(p.v[i]) + (ToBits(t.v[i]) << 23)); });
}

// Lanes i and i+8 are added, then i+4, i+2, i+1.
ATL_INLINE float ReduceAdd(V a) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] + a.v[i + step];
  }
  return a.v[0];
}
ATL_INLINE float ReduceMax(V a) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
  }
  return a.v[0];
}

// 16 pairs of bf16 (base/dtype.h): the lower and the upper half of each 32-bit lane.
ATL_INLINE V LowBf16(const uint32_t* p) {
  return Lanes([p](int i) { return FromBits(p[i] << 16); });
}
ATL_INLINE V HighBf16(const uint32_t* p) {
  return Lanes([p](int i) { return FromBits(p[i] & 0xffff0000u); });
}

// The bits of the nearest bf16, ties to even, in the upper half; NaN stays NaN. The lower half is
// not cleared.
ATL_INLINE uint32_t Bf16Bits(float x) {
  const uint32_t bits = ToBits(x);
  return x != x ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
}
ATL_INLINE V RoundBf16(const V& a) {
  return Lanes([&](int i) { return FromBits(Bf16Bits(a.v[i]) & 0xffff0000u); });
}
ATL_INLINE V LoadBf16N(const uint16_t* p, int64_t n) {
  return Lanes([=](int i) { return i < n ? FromBits(static_cast<uint32_t>(p[i]) << 16) : 0.0f; });
}
ATL_INLINE V LoadBf16(const uint16_t* p) { return LoadBf16N(p, 16); }
ATL_INLINE void StoreBf16N(uint16_t* p, const V& a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = static_cast<uint16_t>(Bf16Bits(a.v[i]) >> 16);
}
ATL_INLINE void StoreBf16(uint16_t* p, const V& a) { StoreBf16N(p, a, 16); }

// 16 lanes of int32.
struct Ints {
  int32_t v[16];
};
// 16 lanes of four bytes.
struct Bytes {
  uint8_t v[64];
};

inline constexpr int kQuantTileRows = 4;
constexpr int QuantTilePanels(int /*rows*/) { return 1; }

ATL_INLINE Ints SetInt(int32_t x) {
  Ints r;
  for (int i = 0; i < 16; ++i) r.v[i] = x;
  return r;
}
ATL_INLINE V ToFloat(const Ints& a) {
  return Lanes([&](int i) { return static_cast<float>(a.v[i]); });
}
ATL_INLINE Bytes LoadBytes(const uint8_t* p) {
  Bytes r;
  for (int i = 0; i < 64; ++i) r.v[i] = p[i];
  return r;
}
// Each byte's lower or upper four bits, times 16.
ATL_INLINE Bytes LowNibbles(const uint8_t* p) {
  Bytes r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(p[i] << 4);
  return r;
}
ATL_INLINE Bytes HighNibbles(const uint8_t* p) {
  Bytes r;
  for (int i = 0; i < 64; ++i) r.v[i] = p[i] & 0xf0;
  return r;
}
ATL_INLINE Bytes Unsigned(const Bytes& w) { return w; }
ATL_INLINE Ints Signed(const Ints& x) { return x; }
// acc + the products of four unsigned bytes with four signed ones: lanes of x are those four, the
// first in the lowest bits.
ATL_INLINE Ints Dot4(Ints acc, const Bytes& w, const Ints& x) {
  for (int i = 0; i < 16; ++i) {
    for (int b = 0; b < 4; ++b) {
      const int8_t input = static_cast<int8_t>(static_cast<uint32_t>(x.v[i]) >> (8 * b));
      acc.v[i] += static_cast<int32_t>(w.v[4 * i + b]) * input;
    }
  }
  return acc;
}

// The largest of the lanes' bits without their sign: of a NaN above all, then infinity.
ATL_INLINE uint32_t MaxMagnitude(const V& a, const V& b) {
  uint32_t most = 0;
  for (int i = 0; i < 16; ++i) {
    const uint32_t x = ToBits(a.v[i]) & 0x7fffffffu, y = ToBits(b.v[i]) & 0x7fffffffu;
    most = x > most ? x : most;
    most = y > most ? y : most;
  }
  return most;
}
// Lanes to the nearest integer, ties to even, at q [16]; returns their sum. |a| <= 127.
ATL_INLINE int32_t StoreInt8(int8_t* q, const V& a) {
  int32_t sum = 0;
  for (int i = 0; i < 16; ++i) {
    const int32_t x = static_cast<int32_t>((a.v[i] + kRoundMagic) - kRoundMagic);
    q[i] = static_cast<int8_t>(x);
    sum += x;
  }
  return sum;
}

}  // namespace atl::kernels::ATL_ISA
