// Row-wise kernels (elementwise.h, logits.h, gate.h, rope.h). Included by table_inl.h.
namespace atl::kernels::ATL_ISA {

static void RmsNormRow(const float* x, const float* weight, float eps, int64_t n, float* y,
                       bool round_bf16) {
  V sum = Zero();
  for (int64_t i = 0; i < n; i += 16) {
    const V v = LoadAny(x + i, n - i);
    sum = Fma(v, v, sum);
  }
  const float scale = 1.0f / __builtin_sqrtf(ReduceAdd(sum) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; i += 16) {
    const V v = Mul(Mul(LoadAny(x + i, n - i), Set1(scale)), LoadAny(weight + i, n - i));
    StoreAny(y + i, Round(v, round_bf16), n - i);
  }
}

static void AddRange(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 16)
    StoreAny(x + i, Add(LoadAny(x + i, n - i), LoadAny(y + i, n - i)), n - i);
}

static void F32ToBf16Range(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; i += 16) StoreBf16Any(y + i, LoadAny(x + i, n - i), n - i);
}

static void Bf16ToF32Range(const uint16_t* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) StoreAny(y + i, LoadBf16Any(x + i, n - i), n - i);
}

static void RoundBf16Range(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) StoreAny(x + i, RoundBf16(LoadAny(x + i, n - i)), n - i);
}

static void SigmoidRange(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) StoreAny(y + i, Sigmoid(LoadAny(x + i, n - i)), n - i);
}

static void RopeVectors(const float* cos, const float* sin, int64_t half, int64_t vectors, float* x,
                        int64_t stride, bool round_bf16) {
  for (int64_t v = 0; v < vectors; ++v, x += stride) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = __builtin_fmaf(a, cos[i], -(b * sin[i]));
      x[2 * i + 1] = __builtin_fmaf(a, sin[i], b * cos[i]);
    }
    if (round_bf16) RoundBf16Range(x, 2 * half);
  }
}

static float MaxOf(const float* x, int64_t n) {
  const V none = Set1(-__builtin_inff());
  V best = none;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) best = Max(Load(x + i), best);
  float max = ReduceMax(best);
  for (; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

static float ExpSum(const float* x, int64_t n, float max, float* y) {
  V sum = Zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const V e = Exp(Sub(Load(x + i), Set1(max)));
    if (y != nullptr) Store(y + i, e);
    sum = Add(sum, e);
  }
  if (i < n) {
    float rest[16];
    for (int64_t j = 0; j < 16; ++j)
      rest[j] = i + j < n ? x[i + j] : -__builtin_inff();  // Exp gives 0
    const V e = Exp(Sub(Load(rest), Set1(max)));
    if (y != nullptr) StoreN(y + i, e, n - i);
    // A lane beyond the end adds nothing, not even the NaN of -inf - -inf.
    Store(rest, e);
    for (int64_t j = n - i; j < 16; ++j) rest[j] = 0;
    sum = Add(sum, Load(rest));
  }
  return ReduceAdd(sum);
}

static int64_t FindEqual(const float* x, int64_t n, float value) {
  const V want = Set1(value);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const uint32_t mask = EqualMask(Load(x + i), want);
    if (mask != 0) return i + __builtin_ctz(mask);
  }
  for (; i < n && x[i] != value;) ++i;
  return i;
}

static int64_t FindGreater(const float* x, int64_t begin, int64_t n, float value) {
  const V bound = Set1(value);
  int64_t i = begin;
  for (; i + 16 <= n; i += 16) {
    const uint32_t mask = GreaterMask(Load(x + i), bound);
    if (mask != 0) return i + __builtin_ctz(mask);
  }
  for (; i < n && !(x[i] > value);) ++i;
  return i;
}

ATL_INLINE V LoadTyped(bool bf16, const void* p, int64_t i, int64_t lanes) {
  return bf16 ? LoadBf16Any(static_cast<const uint16_t*>(p) + i, lanes)
              : LoadAny(static_cast<const float*>(p) + i, lanes);
}

static void CombineRow(bool bf16, int64_t d, const void* shared, const void* const* out,
                       const float* weight, int64_t num, void* y) {
  for (int64_t i = 0; i < d; i += 16) {
    V acc = shared != nullptr ? LoadTyped(bf16, shared, i, d - i) : Zero();
    for (int64_t j = 0; j < num; ++j)
      acc = Fma(Set1(weight[j]), LoadTyped(bf16, out[j], i, d - i), acc);
    if (bf16) {
      StoreBf16Any(static_cast<uint16_t*>(y) + i, acc, d - i);
    } else {
      StoreAny(static_cast<float*>(y) + i, acc, d - i);
    }
  }
}

}  // namespace atl::kernels::ATL_ISA
