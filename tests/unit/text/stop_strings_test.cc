#include "text/stop_strings.h"

#include <gtest/gtest.h>

#include <random>

namespace atl::text {
namespace {

using Strings = std::vector<std::string>;

struct Outcome {
  std::string text;
  bool stopped;
};

Outcome Feed(const Strings& stops, const Strings& pushes) {
  StopMatcher matcher(stops);
  Outcome outcome{"", false};
  for (const std::string& push : pushes) {
    const StopMatcher::Result result = matcher.Push(push);
    outcome.text += result.emit;
    outcome.stopped = result.stopped;
  }
  outcome.text += matcher.Flush();
  return outcome;
}

TEST(StopMatcher, CutAtEveryPoint) {
  const std::string text = "The answer.\n\nUser: more";
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t j = i; j <= text.size(); ++j) {
      const Outcome outcome =
          Feed({"\n\nUser:"}, {text.substr(0, i), text.substr(i, j - i), text.substr(j)});
      EXPECT_TRUE(outcome.stopped);
      EXPECT_EQ(outcome.text, "The answer.") << i << " " << j;
    }
  }
}

TEST(StopMatcher, NothingIsLostWithoutAStop) {
  const std::string text = "aab aaab aabaaba";
  for (size_t i = 0; i <= text.size(); ++i) {
    const Outcome outcome = Feed({"aabb", "aac"}, {text.substr(0, i), text.substr(i)});
    EXPECT_FALSE(outcome.stopped);
    EXPECT_EQ(outcome.text, text);
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"###", "#x"});
  EXPECT_EQ(matcher.Push("a#").emit, "a");
  EXPECT_EQ(matcher.Push("#").emit, "");
  EXPECT_EQ(matcher.Push("b").emit, "##b");
  EXPECT_EQ(matcher.Push("##").emit, "");
  EXPECT_TRUE(matcher.Push("x").stopped);
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, TheFirstToBeCompleteEndsTheText) {
  EXPECT_EQ(Feed({"abcd", "bc"}, {"xabc", "d"}).text, "xa");
  // Complete by the same push: the one that begins earliest.
  EXPECT_EQ(Feed({"abcd", "bc"}, {"xabcd"}).text, "x");
  EXPECT_EQ(Feed({"bc", "abcd"}, {"xabcd"}).text, "x");
  EXPECT_EQ(Feed({"d", "b"}, {"abcd"}).text, "a");
}

TEST(StopMatcher, OneStopIsAPrefixOfAnother) {
  EXPECT_EQ(Feed({"end", "ending"}, {"the en", "ding"}).text, "the ");
  EXPECT_EQ(Feed({"ending", "end"}, {"t", "h", "e", " ", "e", "n", "d"}).text, "the ");
}

TEST(StopMatcher, RepeatsWithinAStop) {
  EXPECT_EQ(Feed({"aaab"}, {"aa", "aa", "aab"}).text, "aaa");
  EXPECT_EQ(Feed({"abab ac"}, {"abab ab", "ab ac"}).text, "abab ");
}

TEST(StopMatcher, WholeCharactersStayWhole) {
  // The second and third character begin with the same two bytes.
  StopMatcher matcher({"好。"});
  EXPECT_EQ(matcher.Push("你好").emit, "你");
  EXPECT_EQ(matcher.Push("《").emit, "好《");
  EXPECT_EQ(matcher.Push("好").emit, "");
  const auto last = matcher.Push("。x");
  EXPECT_TRUE(last.stopped);
  EXPECT_EQ(last.emit, "");
}

TEST(StopMatcher, StaysStopped) {
  StopMatcher matcher({"x"});
  EXPECT_TRUE(matcher.Push("ax").stopped);
  const auto after = matcher.Push("b");
  EXPECT_TRUE(after.stopped);
  EXPECT_EQ(after.emit, "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, EmptyStopsNeverMatch) {
  EXPECT_EQ(Feed({""}, {"a", "b"}).text, "ab");
  EXPECT_FALSE(Feed({}, {"a"}).stopped);
}

// Against a search of all that was pushed so far, push by push.
TEST(StopMatcher, RandomTextsAgainstPlainSearch) {
  std::mt19937 rng(20240901);
  const auto random_text = [&](int length) {
    std::string text;
    while (length-- > 0) text += "ab"[rng() % 2];
    return text;
  };
  int stops_seen = 0;
  for (int round = 0; round < 20000; ++round) {
    Strings stops, pushes;
    for (int i = rng() % 3; i >= 0; --i) stops.push_back(random_text(1 + rng() % 6));
    for (int i = rng() % 8; i >= 0; --i) pushes.push_back(random_text(rng() % 4));
    std::string all;
    Outcome expected{"", false};
    for (const std::string& push : pushes) {
      all += push;
      size_t cut = std::string::npos;
      for (const std::string& stop : stops) cut = std::min(cut, all.find(stop));
      if (cut == std::string::npos) continue;
      expected = {all.substr(0, cut), true};
      break;
    }
    if (!expected.stopped) expected.text = all;
    const Outcome outcome = Feed(stops, pushes);
    ASSERT_EQ(outcome.text, expected.text);
    ASSERT_EQ(outcome.stopped, expected.stopped);
    stops_seen += outcome.stopped;
  }
  EXPECT_GT(stops_seen, 1000);
}

}  // namespace
}  // namespace atl::text
