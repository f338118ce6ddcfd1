#include "bench/arithmetic_roof.h"

#include <atomic>

#include "bench/timing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace atl::bench {
namespace {

constexpr Arithmetic kAll[] = {Arithmetic::kFmaAvx2,    Arithmetic::kFmaAvx512,
                               Arithmetic::kFp16Avx512, Arithmetic::kBf16Avx512,
                               Arithmetic::kInt8Avx2,   Arithmetic::kInt8Avx512,
                               Arithmetic::kInt8Vnni};
constexpr int64_t kRounds = 10000;  // of one piece
constexpr int64_t kPieces = 16;     // for each thread: a late one takes fewer

#if defined(__x86_64__)

// Each runs `rounds` times over independent chains, as many as hide the instruction's latency, and
// returns something that depends on all of them. Chains begin unequal, so that none is left out.
#define ATL_TARGET(isa) __attribute__((target(isa)))

ATL_TARGET("avx2,fma") float FmaAvx2(int64_t rounds) {
  __m256 a[12];
  for (int i = 0; i < 12; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(0.999f);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a) v = _mm256_fmadd_ps(v, x, x);
  }
  for (auto& v : a) a[0] = _mm256_add_ps(a[0], v);
  return _mm256_cvtss_f32(a[0]);
}

ATL_TARGET("avx512f") float FmaAvx512(int64_t rounds) {
  __m512 a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(0.999f);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a) v = _mm512_fmadd_ps(v, x, x);
  }
  for (auto& v : a) a[0] = _mm512_add_ps(a[0], v);
  return _mm512_cvtss_f32(a[0]);
}

ATL_TARGET("avx512f,avx512bw,avx512vl,avx512fp16") float Fp16Avx512(int64_t rounds) {
  __m512h a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_set1_ph(static_cast<_Float16>(i));
  const __m512h x = _mm512_set1_ph(static_cast<_Float16>(0.5f));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a) v = _mm512_fmadd_ph(v, x, x);
  }
  for (auto& v : a) a[0] = _mm512_add_ph(a[0], v);
  return static_cast<float>(_mm512_cvtsh_h(a[0]));
}

ATL_TARGET("avx512f,avx512bw,avx512vl,avx512bf16") float Bf16Avx512(int64_t rounds) {
  __m512 a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a) v = _mm512_dpbf16_ps(v, x, x);
  }
  for (auto& v : a) a[0] = _mm512_add_ps(a[0], v);
  return _mm512_cvtss_f32(a[0]);
}

ATL_TARGET("avx512f,avx512bw,avx512vnni") int Int8Vnni(int64_t rounds) {
  __m512i a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_set1_epi32(i);
  const __m512i x = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a) v = _mm512_dpbusd_epi32(v, x, x);
  }
  for (auto& v : a) a[0] = _mm512_add_epi32(a[0], v);
  return _mm512_cvtsi512_si32(a[0]);
}

ATL_TARGET("avx512f,avx512bw") int Int8Avx512(int64_t rounds) {
  __m512i a[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_set1_epi32(i);
  const __m512i x = _mm512_set1_epi16(3), y = _mm512_set1_epi16(5);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a)
      v = _mm512_add_epi32(v, _mm512_add_epi32(_mm512_madd_epi16(v, x), _mm512_madd_epi16(v, y)));
  }
  for (auto& v : a) a[0] = _mm512_add_epi32(a[0], v);
  return _mm512_cvtsi512_si32(a[0]);
}

ATL_TARGET("avx2") int Int8Avx2(int64_t rounds) {
  __m256i a[12];
  for (int i = 0; i < 12; ++i) a[i] = _mm256_set1_epi32(i);
  const __m256i x = _mm256_set1_epi16(3), y = _mm256_set1_epi16(5);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& v : a)
      v = _mm256_add_epi32(v, _mm256_add_epi32(_mm256_madd_epi16(v, x), _mm256_madd_epi16(v, y)));
  }
  for (auto& v : a) a[0] = _mm256_add_epi32(a[0], v);
  return _mm256_cvtsi256_si32(a[0]);
}

#undef ATL_TARGET

double RunOnce(Arithmetic kind, int64_t rounds) {
  switch (kind) {
    case Arithmetic::kFmaAvx2:
      return FmaAvx2(rounds);
    case Arithmetic::kFmaAvx512:
      return FmaAvx512(rounds);
    case Arithmetic::kFp16Avx512:
      return Fp16Avx512(rounds);
    case Arithmetic::kBf16Avx512:
      return Bf16Avx512(rounds);
    case Arithmetic::kInt8Avx2:
      return Int8Avx2(rounds);
    case Arithmetic::kInt8Avx512:
      return Int8Avx512(rounds);
    case Arithmetic::kInt8Vnni:
      return Int8Vnni(rounds);
  }
  return 0;
}

#else

double RunOnce(Arithmetic, int64_t) { return 0; }

#endif

// Operations of one round.
double OpsPerRound(Arithmetic kind) {
  switch (kind) {
    case Arithmetic::kFmaAvx2:
      return 2 * 12 * 8;
    case Arithmetic::kFmaAvx512:
      return 2 * 16 * 16;
    case Arithmetic::kFp16Avx512:
    case Arithmetic::kBf16Avx512:
      return 2 * 16 * 32;
    case Arithmetic::kInt8Avx2:
      return 2 * 12 * 32;
    case Arithmetic::kInt8Avx512:
    case Arithmetic::kInt8Vnni:
      return 2 * 16 * 64;
  }
  return 0;
}

}  // namespace

std::span<const Arithmetic> AllArithmetic() { return kAll; }

const char* ArithmeticName(Arithmetic kind) {
  switch (kind) {
    case Arithmetic::kFmaAvx2:
      return "fp32 fma, AVX2";
    case Arithmetic::kFmaAvx512:
      return "fp32 fma, AVX-512";
    case Arithmetic::kFp16Avx512:
      return "fp16 fma, AVX-512 FP16";
    case Arithmetic::kBf16Avx512:
      return "bf16 dot, AVX-512 BF16";
    case Arithmetic::kInt8Avx2:
      return "int8 by int16 pairs, AVX2";
    case Arithmetic::kInt8Avx512:
      return "int8 by int16 pairs, AVX-512";
    case Arithmetic::kInt8Vnni:
      return "int8 dot, AVX-512 VNNI";
  }
  return "";
}

bool ArithmeticSupported(Arithmetic kind) {
#if defined(__x86_64__)
  switch (kind) {
    case Arithmetic::kFmaAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Arithmetic::kInt8Avx2:
      return __builtin_cpu_supports("avx2");
    case Arithmetic::kFmaAvx512:
      return __builtin_cpu_supports("avx512f");
    case Arithmetic::kInt8Avx512:
      return __builtin_cpu_supports("avx512bw");
    case Arithmetic::kInt8Vnni:
      return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw");
    case Arithmetic::kBf16Avx512:
      return __builtin_cpu_supports("avx512bf16");
    case Arithmetic::kFp16Avx512: {
      unsigned a = 7, b, c = 0, d;
      __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
      return (d >> 23 & 1) != 0 && __builtin_cpu_supports("avx512bw");
    }
  }
#endif
  return false;
}

double RunArithmetic(ThreadPool* pool, Arithmetic kind) {
  std::atomic<int64_t> sink{0};
  const int64_t pieces = kPieces * pool->num_threads();
  pool->ParallelFor(pieces, [&](int64_t) {
    if (RunOnce(kind, kRounds) == 0.125) sink.fetch_add(1);  // never: the result is needed
  });
  return OpsPerRound(kind) * static_cast<double>(kRounds * pieces);
}

double ArithmeticGops(ThreadPool* pool, Arithmetic kind) {
  const double begin = WallSeconds();
  const double ops = RunArithmetic(pool, kind);
  return ops / (WallSeconds() - begin) / 1e9;
}

}  // namespace atl::bench
