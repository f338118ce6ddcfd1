#include "kernels/exact_math.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/table.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kInf64 = std::numeric_limits<double>::infinity();

// Distance from the true value in units of the last place of the float32 nearest to it.
template <typename T>
double Ulps(T found, long double exact) {
  const T nearest = static_cast<T>(exact);
  const long double ulp =
      std::nextafter(std::abs(nearest), std::numeric_limits<T>::infinity()) - std::abs(nearest);
  return static_cast<double>(std::abs(static_cast<long double>(found) - exact) / ulp);
}

// Every `step`-th float between two of the same sign, by bits.
template <typename F>
void Sweep(float from, float to, uint32_t step, F f) {
  const uint32_t a = std::bit_cast<uint32_t>(from), b = std::bit_cast<uint32_t>(to);
  for (uint64_t bits = std::min(a, b); bits <= std::max(a, b); bits += step)
    f(std::bit_cast<float>(static_cast<uint32_t>(bits)));
}

TEST(ExactMath, ExpWithinTwoUlp) {
  double worst = 0;
  auto check = [&](float x) {
    worst = std::max(worst, Ulps(Exp(x), std::exp(static_cast<long double>(x))));
  };
  Sweep(1e-30f, 88.72283f, 997, check);
  Sweep(-1e-30f, -87.3f, 997, check);
  Sweep(0.3f, 0.4f, 7, check);  // around ln2 / 2, where the reduction changes
  EXPECT_LE(worst, 2.0);
  EXPECT_GT(worst, 0.5);  // else the sweep saw nothing
}

TEST(ExactMath, ExpAtItsEdges) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(kInf), kInf);
  EXPECT_EQ(Exp(88.8f), kInf);
  EXPECT_TRUE(std::isfinite(Exp(88.72283f)));
  EXPECT_EQ(Exp(std::nextafter(88.72283f, kInf)), kInf);
  EXPECT_TRUE(SameBits(Exp(-kInf), 0.0f));
  EXPECT_TRUE(SameBits(Exp(-87.31f), 0.0f));
  EXPECT_TRUE(std::isnormal(Exp(-87.3f)));
  EXPECT_TRUE(SameBits(Exp(-std::numeric_limits<float>::max()), 0.0f));
  EXPECT_TRUE(std::isnan(Exp(kNan)));
  EXPECT_TRUE(std::isnan(Exp(std::bit_cast<float>(0x7f8001ffu))));  // a NaN with a payload
}

TEST(ExactMath, LogWithinTwoUlp) {
  double worst = 0;
  auto check = [&](float x) {
    worst = std::max(worst, Ulps(Log(x), std::log(static_cast<long double>(x))));
  };
  Sweep(std::numeric_limits<float>::min(), std::numeric_limits<float>::max(), 1009, check);
  Sweep(0.65f, 1.5f, 13, check);
  EXPECT_LE(worst, 2.0);
  EXPECT_GT(worst, 0.5);
  EXPECT_TRUE(SameBits(Log(1.0f), 0.0f));
  EXPECT_EQ(Log(0.0f), -kInf);
  EXPECT_EQ(Log(kInf), kInf);
  EXPECT_TRUE(std::isnan(Log(-1.0f)));
  EXPECT_TRUE(std::isnan(Log(kNan)));
  EXPECT_NEAR(Log(1e-42f), std::log(1e-42f), 1e-5);  // denormal
}

TEST(ExactMath, SigmoidOfEveryMagnitude) {
  auto check = [&](float x) {
    const long double exact = 1 / (1 + std::exp(-static_cast<long double>(x)));
    if (exact > 1.2e-38L) {
      ASSERT_LE(Ulps(Sigmoid(x), exact), 4.0) << x;
    } else {
      ASSERT_GE(Sigmoid(x), 0.0f) << x;
      ASSERT_LE(Sigmoid(x), 1.2e-38f) << x;
    }
  };
  Sweep(1e-30f, std::numeric_limits<float>::max(), 4001, check);
  Sweep(-1e-30f, -std::numeric_limits<float>::max(), 4001, check);
  EXPECT_EQ(Sigmoid(0.0f), 0.5f);
  EXPECT_EQ(Sigmoid(kInf), 1.0f);
  EXPECT_EQ(Sigmoid(-kInf), 0.0f);
  EXPECT_TRUE(std::isnan(Sigmoid(kNan)));
}

TEST(ExactMath, VectorFormsHaveTheBitsOfTheScalarOnes) {
  std::vector<float> x = {0.0f,
                          -0.0f,
                          kInf,
                          -kInf,
                          kNan,
                          88.72283f,
                          88.73f,
                          -87.3f,
                          -87.31f,
                          -88.8f,
                          1e-40f,
                          -1e-40f,
                          3e38f,
                          -3e38f,
                          0.34657359f,
                          -0.34657359f,
                          std::bit_cast<float>(0xffc001ffu)};
  Sweep(1e-6f, 100.0f, 9973, [&](float v) { x.insert(x.end(), {v, -v}); });
  const int64_t n = static_cast<int64_t>(x.size());
  for (Isa isa : SupportedIsas()) {
    SCOPED_TRACE(IsaName(isa));
    std::vector<float> exp(n), sigmoid(n);
    const KernelContext ctx = Context(isa);
    ctx.table->exp_sum(x.data(), n, 0.0f, exp.data());
    ctx.table->sigmoid(x.data(), n, sigmoid.data());
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_TRUE(SameBits(exp[i], Exp(x[i])))
          << x[i] << ": " << exp[i] << ", expected " << Exp(x[i]);
      ASSERT_TRUE(SameBits(sigmoid[i], Sigmoid(x[i]))) << x[i];
    }
  }
}

TEST(ExactMath, Exp64) {
  double worst = 0;
  for (double x = -708; x < 709.7; x += 0.00713) {
    worst = std::max(worst, Ulps(Exp64(x), std::exp(static_cast<long double>(x))));
  }
  EXPECT_LE(worst, 4.0);
  EXPECT_GT(worst, 0.4);
  EXPECT_EQ(Exp64(0), 1.0);
  EXPECT_EQ(Exp64(710), kInf64);
  EXPECT_EQ(Exp64(-kInf64), 0.0);
  EXPECT_NEAR(Exp64(-740) / std::exp(-740.0), 1.0, 0.1);  // denormal: few bits
  EXPECT_TRUE(std::isnan(Exp64(std::numeric_limits<double>::quiet_NaN())));
}

TEST(ExactMath, Log64) {
  double worst = 0;
  for (double x = 1e-300; x < 1e300; x *= 1.0137)
    worst = std::max(worst, Ulps(Log64(x), std::log(static_cast<long double>(x))));
  for (double x = 0.6; x < 1.6; x += 1.37e-5)
    worst = std::max(worst, Ulps(Log64(x), std::log(static_cast<long double>(x))));
  EXPECT_LE(worst, 4.0);
  EXPECT_GT(worst, 0.4);
  EXPECT_EQ(Log64(1), 0.0);
  EXPECT_EQ(Log64(0), -kInf64);
  EXPECT_EQ(Log64(kInf64), kInf64);
  EXPECT_TRUE(std::isnan(Log64(-1)));
  EXPECT_NEAR(Log64(5e-324), -744.4400719213812, 1e-10);
}

TEST(ExactMath, SinCos64) {
  double worst = 0;
  auto check = [&](double x) {
    double sin, cos;
    SinCos64(x, &sin, &cos);
    worst =
        std::max(worst, static_cast<double>(std::abs(sin - std::sin(static_cast<long double>(x)))));
    worst =
        std::max(worst, static_cast<double>(std::abs(cos - std::cos(static_cast<long double>(x)))));
  };
  for (double x = -50; x < 50; x += 0.00137) check(x);
  for (double x = 1e-12; x < 2147483647.0; x *= 1.00071) check(x), check(-x);
  for (int i = 1; i < 200000; i += 7)
    check(i * 1.5707963267948966);  // next to the places where the quadrant changes
  EXPECT_LT(worst, 1e-14);
  EXPECT_GT(worst, 1e-17);
  double sin, cos;
  SinCos64(0, &sin, &cos);
  EXPECT_EQ(sin, 0.0);
  EXPECT_EQ(cos, 1.0);
}

}  // namespace
}  // namespace atl::kernels
