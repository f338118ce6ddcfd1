// Exp and Sigmoid of 16 lanes: the operations of kernels/exact_math.cc in the same order. Included
// by table_inl.h.
namespace atl::kernels::ATL_ISA {

ATL_INLINE V Exp(V x) {
  const V magic = Set1(kRoundMagic);
  const V t = Fma(x, Set1(kLog2e), magic);
  const V n = Sub(t, magic);
  V r = Fma(n, Set1(-kLn2Hi), x);
  r = Fma(n, Set1(-kLn2Lo), r);
  V p = Fma(Set1(kExpC6), r, Set1(kExpC5));
  p = Fma(p, r, Set1(kExpC4));
  p = Fma(p, r, Set1(kExpC3));
  p = Fma(p, r, Set1(kExpC2));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  V y = ScaleByMagic(p, t);
  y = IfGreater(x, Set1(kExpMax), Set1(__builtin_inff()), y);
  y = IfGreater(Set1(kExpMin), x, Zero(), y);
  return IfNan(x, x, y);
}

ATL_INLINE V Sigmoid(V x) {
  const V one = Set1(1.0f);
  return Div(one, Add(one, Exp(Mul(x, Set1(-1.0f)))));
}

ATL_INLINE V Round(V x, bool round_bf16) { return round_bf16 ? RoundBf16(x) : x; }

// The whole lanes of a range of n, then its rest: f(begin, lanes) with lanes <= 16.
ATL_INLINE V LoadAny(const float* p, int64_t lanes) {
  return lanes >= 16 ? Load(p) : LoadN(p, lanes);
}
ATL_INLINE void StoreAny(float* p, V x, int64_t lanes) {
  if (lanes >= 16) {
    Store(p, x);
  } else {
    StoreN(p, x, lanes);
  }
}
ATL_INLINE V LoadBf16Any(const uint16_t* p, int64_t lanes) {
  return lanes >= 16 ? LoadBf16(p) : LoadBf16N(p, lanes);
}
ATL_INLINE void StoreBf16Any(uint16_t* p, V x, int64_t lanes) {
  if (lanes >= 16) {
    StoreBf16(p, x);
  } else {
    StoreBf16N(p, x, lanes);
  }
}

}  // namespace atl::kernels::ATL_ISA
