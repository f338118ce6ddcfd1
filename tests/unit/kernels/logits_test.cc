#include "kernels/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/exact_math.h"
#include "kernels_testing.h"

namespace atl::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(ArgMax, TheLowestOfEquals) {
  for (Isa isa : SupportedIsas()) {
    SCOPED_TRACE(IsaName(isa));
    const KernelContext ctx = Context(isa);
    for (int64_t v : {1, 2, 15, 16, 17, 100, 1000}) {
      std::vector<float> x = Random(v, 1);
      EXPECT_EQ(ArgMax(ctx, x.data(), v), std::max_element(x.begin(), x.end()) - x.begin());
      for (int64_t at : {int64_t{0}, v / 2, v - 1}) {
        std::vector<float> tie = x;
        tie[at] = tie[v - 1] = 2.0f;
        EXPECT_EQ(ArgMax(ctx, tie.data(), v), at);
      }
    }
  }
}

TEST(ArgMax, NanNeverWins) {
  for (Isa isa : SupportedIsas()) {
    const KernelContext ctx = Context(isa);
    std::vector<float> x(40, kNan);
    EXPECT_EQ(ArgMax(ctx, x.data(), 40), 0);
    x[33] = -kInf;
    EXPECT_EQ(ArgMax(ctx, x.data(), 40), 33);
    x[5] = -3;
    EXPECT_EQ(ArgMax(ctx, x.data(), 40), 5);
    x[39] = kInf;
    EXPECT_EQ(ArgMax(ctx, x.data(), 40), 39);
    const float zeros[] = {-1.0f, -0.0f, 0.0f};
    EXPECT_EQ(ArgMax(ctx, zeros, 3), 1);
  }
}

TEST(LogSumExp, HasTheBitsOfItsDefinition) {
  for (int64_t v : {1, 5, 16, 31, 1000, 4099}) {
    std::vector<float> x = Random(v, 2, 12);
    if (v > 3) x[3] = -kInf;
    const float max = *std::max_element(x.begin(), x.end());
    float lane[16] = {};
    std::vector<float> exp(v);
    double exact = 0;
    for (int64_t i = 0; i < v; ++i) {
      exp[i] = Exp(x[i] - max);
      lane[i % 16] += exp[i];
      exact += std::exp(static_cast<double>(x[i]));
    }
    const float sum = AddLanes(lane);
    for (Isa isa : SupportedIsas()) {
      SCOPED_TRACE(IsaName(isa));
      EXPECT_TRUE(SameBits(LogSumExp(Context(isa), x.data(), v), max + Log(sum)));
      EXPECT_NEAR(LogSumExp(Context(isa), x.data(), v), std::log(exact), 1e-5);
      std::vector<float> y(v + 1, 7.0f);
      EXPECT_TRUE(SameBits(ExpSum(Context(isa), x.data(), v, max, y.data()), sum));
      EXPECT_EQ(y[v], 7.0f);
      y.pop_back();
      EXPECT_TRUE(SameBits(y, exp));
    }
  }
}

TEST(TopN, IsASortByValueThenId) {
  const int64_t v = 1003;
  std::vector<float> x = Random(v, 3);
  for (float& value : x) value = std::floor(value * 20);  // many ties
  x[17] = kInf;
  x[400] = -kInf;
  std::vector<int32_t> order(v);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  for (Isa isa : SupportedIsas()) {
    for (int64_t n : {0, 1, 2, 20, 500, 1003}) {
      std::vector<TopEntry> top(n);
      TopN(Context(isa), x.data(), v, top);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(top[i].id, order[i]) << IsaName(isa) << " n " << n << " at " << i;
        ASSERT_EQ(top[i].value, x[order[i]]);
      }
    }
  }
}

TEST(TopN, NanComesLast) {
  const std::vector<float> x = {kNan, 1, kNan, 3, -kInf, 2};
  for (Isa isa : SupportedIsas()) {
    std::vector<TopEntry> top(3);
    TopN(Context(isa), x.data(), 6, top);
    EXPECT_EQ(top[0].id, 3);
    EXPECT_EQ(top[1].id, 5);
    EXPECT_EQ(top[2].id, 1);
  }
}

}  // namespace
}  // namespace atl::kernels
