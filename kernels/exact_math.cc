#include "kernels/exact_math.h"

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/constants.h"

namespace atl::kernels {
namespace {

constexpr double kMagic64 =
    6755399441055744.0;  // 1.5 * 2^52: adding and taking it away rounds to an integer
constexpr double kLn2Hi64 = 0x1.62e42fefa39efp-1;
constexpr double kLn2Lo64 = 0x1.abc9e3b39803fp-56;
constexpr double kHalfPiHi = 0x1.921fb54442d18p+0;
constexpr double kHalfPiLo = 0x1.1a62633145c07p-54;

// x, ..., c[N - 1] by Horner's rule: c[0] x^(N-1) + ... + c[N - 1], one fma a step.
template <typename T, int N>
T Horner(const T (&c)[N], T x) {
  T sum = c[0];
  for (int i = 1; i < N; ++i) sum = std::fma(sum, x, c[i]);
  return sum;
}

// 2^n for -1022 <= n <= 1023.
double PowerOfTwo(int64_t n) {
  return std::bit_cast<double>(static_cast<uint64_t>(n + 1023) << 52);
}

}  // namespace

float Exp(float x) {
  if (x != x) return x;
  if (x > kExpMax) return std::numeric_limits<float>::infinity();
  if (x < kExpMin) return 0;
  const float t = std::fma(x, kLog2e, kRoundMagic);
  const float n = t - kRoundMagic;
  float r = std::fma(n, -kLn2Hi, x);
  r = std::fma(n, -kLn2Lo, r);
  const float p = Horner({kExpC6, kExpC5, kExpC4, kExpC3, kExpC2, 1.0f, 1.0f}, r);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(t) << 23));
}

float Log(float x) {
  if (!(x >= 0)) return std::numeric_limits<float>::quiet_NaN();
  if (x == 0) return -std::numeric_limits<float>::infinity();
  if (x == std::numeric_limits<float>::infinity()) return x;
  int32_t e = 0;
  if (x < std::numeric_limits<float>::min()) {
    x *= 0x1p23f;
    e = -23;
  }
  // x = 2^e m, sqrt(1/2) <= m < sqrt(2); log m = f - f^2 / 2 + f^3 p(f), minimax of degree 8,
  // relative error 7.5e-10.
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t shift = (bits - 0x3f3504f3) >> 23;
  e += shift;
  const float f = std::bit_cast<float>(bits - shift * (1 << 23)) - 1.0f;
  const float p = Horner({0.06747734f, -0.1167752f, 0.11888698f, -0.1240534f, 0.14219452f,
                          -0.16668005f, 0.20002124f, -0.2500001f, 0.33333313f},
                         f);
  const float n = static_cast<float>(e), square = f * f;
  float rest = std::fma(n, kLn2Lo, f * square * p);
  rest = std::fma(-0.5f, square, rest);
  return std::fma(n, kLn2Hi, rest + f);
}

float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

double Exp64(double x) {
  if (x != x) return x;
  if (x > 709.782712893384) return std::numeric_limits<double>::infinity();
  if (x < -745.2) return 0;
  const double n = std::fma(x, 0x1.71547652b82fep+0, kMagic64) - kMagic64;
  double r = std::fma(n, -kLn2Hi64, x);
  r = std::fma(n, -kLn2Lo64, r);
  // Taylor: |r| <= 0.3466, the first term left out is 4e-18.
  const double p =
      Horner({1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
              1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0},
             r);
  const int64_t whole = static_cast<int64_t>(n),
                half = whole / 2;  // in two steps: 2^1024 and denormals have no one factor
  return p * PowerOfTwo(half) * PowerOfTwo(whole - half);
}

double Log64(double x) {
  if (!(x >= 0)) return std::numeric_limits<double>::quiet_NaN();
  if (x == 0) return -std::numeric_limits<double>::infinity();
  if (x == std::numeric_limits<double>::infinity()) return x;
  int64_t e = 0;
  if (x < std::numeric_limits<double>::min()) {
    x *= 0x1p52;
    e = -52;
  }
  const int64_t bits = std::bit_cast<int64_t>(x);
  const int64_t shift = (bits - 0x3fe6a09e667f3bcd) >> 52;
  e += shift;
  const double f = std::bit_cast<double>(bits - shift * (int64_t{1} << 52)) - 1.0;
  // With s = f / (2 + f): log(1 + f) = 2 atanh(s) = f - (f^2 / 2 - s (f^2 / 2 + R)), R = 2/3 s^2 +
  // 2/5 s^4 + ...; s^2 <= 0.0295.
  const double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
  const double tail = z * Horner({2.0 / 23, 2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13,
                                  2.0 / 11, 2.0 / 9, 2.0 / 7, 2.0 / 5, 2.0 / 3},
                                 z);
  const double n = static_cast<double>(e);
  const double rest = std::fma(s, half + tail, n * kLn2Lo64);
  return std::fma(n, kLn2Hi64, f - (half - rest));
}

void SinCos64(double x, double* sin, double* cos) {
  const double n = std::fma(x, 0x1.45f306dc9c883p-1, kMagic64) - kMagic64;
  // x - n pi/2: the first fma is exact for |n| < 2^31, since both sides are multiples of 2^-52.
  double r = std::fma(n, -kHalfPiHi, x);
  r = std::fma(n, -kHalfPiLo, r);
  const double z = r * r;
  // Taylor: |r| <= 0.7855, the first terms left out are 8e-20 and 2e-18.
  const double s = Horner({1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800,
                           -1.0 / 39916800, 1.0 / 362880, -1.0 / 5040, 1.0 / 120, -1.0 / 6},
                          z);
  const double c = Horner({1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600,
                           -1.0 / 3628800, 1.0 / 40320, -1.0 / 720, 1.0 / 24, -0.5, 1.0},
                          z);
  const double sin_r = std::fma(r * z, s, r);
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      *sin = sin_r, *cos = c;
      break;
    case 1:
      *sin = c, *cos = -sin_r;
      break;
    case 2:
      *sin = -sin_r, *cos = -c;
      break;
    default:
      *sin = -c, *cos = sin_r;
      break;
  }
}

}  // namespace atl::kernels
