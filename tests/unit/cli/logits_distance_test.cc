#include "cli/logits_distance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace atl::cli {
namespace {

TEST(LogitsDistanceTest, EqualLogitsHaveNone) {
  const std::vector<float> logits = {1, 2, 3, -5, 0, 700};
  LogitsDistance distance;
  distance.Add(logits, logits, 3);
  EXPECT_EQ(distance.num_positions(), 2);
  EXPECT_NEAR(distance.mean_kl(), 0, 1e-12);
  EXPECT_EQ(distance.top1_agreement(), 1);
  EXPECT_EQ(distance.max_logit_difference(), 0);
}

TEST(LogitsDistanceTest, ASumAddedToAllLogitsChangesNoProbability) {
  LogitsDistance distance;
  distance.Add(std::vector<float>{1, 2, 3}, std::vector<float>{11, 12, 13}, 3);
  EXPECT_NEAR(distance.mean_kl(), 0, 1e-12);
  EXPECT_EQ(distance.max_logit_difference(), 10);
}

TEST(LogitsDistanceTest, DivergenceOfTwoCoins) {
  // p = (3/4, 1/4), q = (1/4, 3/4): KL = (3/4 - 1/4) log 3. The second position is equal.
  const float l3 = std::log(3.0f);
  LogitsDistance distance;
  distance.Add(std::vector<float>{l3, 0, 0, 0}, std::vector<float>{0, l3, 0, 0}, 2);
  EXPECT_NEAR(distance.max_kl(), 0.5 * std::log(3.0), 1e-6);
  EXPECT_NEAR(distance.mean_kl(), 0.25 * std::log(3.0), 1e-6);
  EXPECT_EQ(distance.top1_agreement(), 0.5);
}

}  // namespace
}  // namespace atl::cli
