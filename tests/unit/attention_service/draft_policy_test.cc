#include "attention_service/draft_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

namespace atl::attention {
namespace {

// A machine on which a step of n sequences takes cost(n, depth), and guesses are right in turn, so
// many of a hundred. Returns how often each depth was chosen in the second half of the steps.
std::map<int, int> Choices(DraftPolicy* policy, int64_t n, int percent,
                           const std::function<double(int64_t, int)>& cost, int steps = 2000) {
  std::map<int, int> chosen;
  int turn = 0;
  for (int i = 0; i < steps; ++i) {
    const int depth = policy->Depth(n);
    if (i >= steps / 2) ++chosen[depth];
    policy->Took(n, depth, cost(n, depth));
    for (int64_t s = 0; s < n; ++s) {
      int right = 0;
      while (right < depth && (turn += 37) % 100 < percent) ++right;
      policy->Record(right, right < depth);
    }
  }
  return chosen;
}

int Usual(const std::map<int, int>& choices) {
  return std::max_element(choices.begin(), choices.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

TEST(DraftPolicyTest, CheapGuessesThatAreRightGoAsDeepAsAllowed) {
  for (const int most : {0, 1, 2, 4}) {
    DraftPolicy policy(most);
    EXPECT_EQ(Usual(Choices(&policy, 1, 100, [](int64_t, int d) { return 1 + 0.1 * d; })), most);
  }
}

TEST(DraftPolicyTest, TheDeeperGuessMustPayItself) {
  // Tokens a second at 60 %: 1, 1.6 / 1.3, 1.96 / 1.6, 2.176 / 1.9, ...: the first is the best.
  DraftPolicy policy(4);
  EXPECT_EQ(Usual(Choices(&policy, 1, 60, [](int64_t, int d) { return 1 + 0.3 * d; })), 1);
  EXPECT_NEAR(policy.acceptance(), 0.6, 0.1);
}

TEST(DraftPolicyTest, GuessesThatDoNotPayAreOnlyProbed) {
  DraftPolicy dear(4), wrong(4);
  for (const auto& choices : {Choices(&dear, 1, 100, [](int64_t, int d) { return 1 + 1.1 * d; }),
                              Choices(&wrong, 1, 0, [](int64_t, int d) { return 1 + 0.1 * d; })}) {
    EXPECT_EQ(Usual(choices), 0);
    EXPECT_GE(choices.at(0), 1000 - 1000 / 50);
    EXPECT_GE(choices.at(1), 10);
  }
}

TEST(DraftPolicyTest, WhatBeginsToPayIsNoticed) {
  DraftPolicy policy(1);
  const auto cost = [](int64_t, int d) { return 1 + 0.4 * d; };
  EXPECT_EQ(Usual(Choices(&policy, 1, 0, cost)), 0);
  EXPECT_EQ(Usual(Choices(&policy, 1, 100, cost, 20000)), 1);
  EXPECT_EQ(Usual(Choices(&policy, 1, 100, [](int64_t, int d) { return 1 + 2.0 * d; })), 0);
}

TEST(DraftPolicyTest, OneStepThatWasHeldUpChangesLittle) {
  DraftPolicy policy(1);
  const auto cost = [](int64_t, int d) { return 1 + 0.2 * d; };
  Choices(&policy, 1, 100, cost);
  policy.Took(1, 1, 1000);
  EXPECT_EQ(Usual(Choices(&policy, 1, 100, cost, 20)), 1);
}

// Rows are free up to four, then cost as much as the first.
TEST(DraftPolicyTest, BatchesHaveDepthsOfTheirOwn) {
  DraftPolicy policy(3);
  const auto cost = [](int64_t n, int d) { return std::max(1.0, n * (1 + d) / 4.0); };
  EXPECT_EQ(Usual(Choices(&policy, 1, 95, cost)), 3);
  EXPECT_EQ(Usual(Choices(&policy, 2, 95, cost)), 1);
  EXPECT_EQ(Usual(Choices(&policy, 8, 95, cost)), 0);
  EXPECT_EQ(Usual(Choices(&policy, 1, 95, cost)), 3);
}

TEST(DraftPolicyTest, NoStepGrowsBeyondItsRows) {
  DraftPolicy policy(4);
  for (int64_t n = 1; n <= 100; ++n) {
    for (const auto& [depth, count] :
         Choices(&policy, n, 100, [](int64_t, int) { return 1; }, 40)) {
      if (depth > 0) {
        EXPECT_LE(n * (1 + depth), DraftPolicy::kMaxRows);
      }
    }
  }
  EXPECT_EQ(policy.Depth(0), 0);
}

}  // namespace
}  // namespace atl::attention
