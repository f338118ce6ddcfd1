#include "attention_service/draft_policy.h"

#include <gtest/gtest.h>

namespace atl::attention {
namespace {

TEST(DraftPolicyTest, AsDeepAsAllowedWhileGuessesAreRight) {
  for (const int most : {0, 1, 2, 4}) {
    DraftPolicy policy(most);
    for (int i = 0; i < 1000; ++i) policy.Record(1, false);
    EXPECT_GT(policy.acceptance(), 0.99);
    EXPECT_EQ(policy.Depth(1), most);
  }
}

TEST(DraftPolicyTest, TheDeeperGuessMustBeWorthItsRowToo) {
  DraftPolicy policy(4);
  for (int i = 0; i < 10000; ++i) policy.Record(3, true);  // three of four are right
  EXPECT_NEAR(policy.acceptance(), 0.75, 0.02);
  EXPECT_EQ(policy.Depth(1), 2);  // 0.75 and 0.56, but 0.42
}

TEST(DraftPolicyTest, WrongGuessesEndExceptForProbesAndRightOnesBringThemBack) {
  DraftPolicy policy(2);
  for (int i = 0; i < 1000; ++i) policy.Record(0, true);
  int guesses = 0;
  for (int i = 0; i < 640; ++i) guesses += policy.Depth(1);
  EXPECT_EQ(guesses, 10);
  for (int i = 0; i < 1000; ++i) policy.Record(1, false);
  EXPECT_EQ(policy.Depth(1), 2);
}

TEST(DraftPolicyTest, NoStepGrowsBeyondItsRows) {
  DraftPolicy policy(4);
  for (int i = 0; i < 1000; ++i) policy.Record(1, false);
  for (int64_t sequences = 1; sequences <= 64; ++sequences) {
    const int depth = policy.Depth(sequences);
    EXPECT_EQ(depth > 0, sequences * 2 <= DraftPolicy::kMaxRows);
    if (depth > 0) {
      EXPECT_LE(sequences * (1 + depth), DraftPolicy::kMaxRows);
    }
  }
  EXPECT_EQ(policy.Depth(0), 0);
}

}  // namespace
}  // namespace atl::attention
