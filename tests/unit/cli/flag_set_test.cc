#include "cli/flag_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace atl::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::CaptureStdout;
using ::testing::internal::GetCapturedStderr;
using ::testing::internal::GetCapturedStdout;

struct Values {
  std::string name = "x";
  int count = 3;
  bool on = true;
  bool loud = false;
  absl::Duration wait = absl::Seconds(25);
  int64_t bytes = int64_t{1} << 30;
  std::vector<std::string> list = {"a"};
  std::vector<std::string> texts;
  std::optional<float> share;
  std::optional<uint64_t> seed;
  std::optional<uint32_t> few;
  double part = 0.5;
  int depth = 0;
  std::string mode = "slow";
  std::string word;
};

std::optional<int> Parse(Values* values, std::vector<std::string> arguments) {
  FlagSet flags("atoll test", "Summary.");
  flags.Add("--name", &values->name, "a name");
  flags.Add("--max-count", &values->count, "a count");
  flags.Add("--on", &values->on, "a switch that is on");
  flags.AddSwitch("--loud", &values->loud, "a switch");
  flags.Add("--wait", &values->wait, "a time");
  flags.AddBytes("--bytes", &values->bytes, "a size");
  flags.Add("--list", &values->list, "a list");
  flags.AddRepeated("--text", &values->texts, "texts");
  flags.Add("--share", &values->share, "a number");
  flags.Add("--seed", &values->seed, "a number");
  flags.AddInRange("--part", &values->part, 0, 1, "a share");
  flags.AddInRange("--depth", &values->depth, 0, 4, "a small number");
  flags.AddAtLeast("--few", &values->few, 1, "a number");
  flags.AddOneOf("--mode", &values->mode, {"slow", "fast"}, "a mode");
  flags.AddPositional("word", &values->word, "a word");
  arguments.insert(arguments.begin(), "atoll");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return flags.Parse(argv.size(), argv.data());
}

TEST(FlagSetTest, EveryKindOfValueIsRead) {
  Values values;
  ASSERT_EQ(Parse(&values, {"--name=n",     "--max-count",
                            "-7",           "--on",
                            "false",        "--loud",
                            "--wait=250ms", "--bytes",
                            "1.5GiB",       "--list",
                            "b,c",          "the word",
                            "--text",       "x,y",
                            "--text",       "z",
                            "--mode",       "fast",
                            "--share",      "-0.5",
                            "--seed",       "18446744073709551615"}),
            std::nullopt);
  EXPECT_EQ(values.name, "n");
  EXPECT_EQ(values.count, -7);
  EXPECT_FALSE(values.on);
  EXPECT_TRUE(values.loud);
  EXPECT_EQ(values.wait, absl::Milliseconds(250));
  EXPECT_EQ(values.bytes, 1610612736);
  EXPECT_THAT(values.list, ElementsAre("b", "c"));
  EXPECT_THAT(values.texts, ElementsAre("x,y", "z"));
  EXPECT_EQ(values.mode, "fast");
  EXPECT_EQ(values.share, -0.5f);
  EXPECT_EQ(values.seed, 18446744073709551615u);
  EXPECT_EQ(values.word, "the word");
}

TEST(FlagSetTest, DefaultsStayWhereNothingIsSaid) {
  Values values;
  ASSERT_EQ(Parse(&values, {}), std::nullopt);
  EXPECT_EQ(values.name, "x");
  EXPECT_EQ(values.count, 3);
  EXPECT_TRUE(values.on);
  EXPECT_EQ(values.wait, absl::Seconds(25));
  EXPECT_THAT(values.list, ElementsAre("a"));
  EXPECT_EQ(values.share, std::nullopt);
}

TEST(FlagSetTest, TruthMayBeSaidBareOrWithAValue) {
  struct Case {
    std::vector<std::string> arguments;
    bool expected;
  };
  for (const Case& c : {Case{{"--on"}, true}, Case{{"--on", "--loud"}, true},
                        Case{{"--on=true"}, true}, Case{{"--on=false"}, false},
                        Case{{"--on", "false"}, false}, Case{{"--on", "--on=false"}, false}}) {
    Values values;
    values.on = !c.expected;
    ASSERT_EQ(Parse(&values, c.arguments), std::nullopt);
    EXPECT_EQ(values.on, c.expected) << c.arguments.back();
  }
}

TEST(FlagSetTest, TheLastValueSaidCountsAndItMayBeEmpty) {
  Values values;
  ASSERT_EQ(Parse(&values, {"--few", "3", "--few=2", "--name=", "word", "--part=1"}), std::nullopt);
  EXPECT_EQ(values.few, 2u);
  EXPECT_EQ(values.name, "");
  EXPECT_EQ(values.word, "word");
  EXPECT_EQ(values.part, 1);
}

TEST(FlagSetTest, TheEnvironmentSetsWhatTheCommandLineDoesNot) {
  setenv("ATOLL_MAX_COUNT", "11", 1);
  setenv("ATOLL_LIST", "p,q", 1);
  setenv("ATOLL_ON", "false", 1);
  setenv("ATOLL_WAIT", "3s", 1);
  Values values;
  const auto code = Parse(&values, {"--wait=1s"});
  for (const char* name : {"ATOLL_MAX_COUNT", "ATOLL_LIST", "ATOLL_ON", "ATOLL_WAIT"})
    unsetenv(name);
  ASSERT_EQ(code, std::nullopt);
  EXPECT_EQ(values.count, 11);
  EXPECT_THAT(values.list, ElementsAre("p", "q"));
  EXPECT_FALSE(values.on);
  EXPECT_EQ(values.wait, absl::Seconds(1));
}

TEST(FlagSetTest, HelpShowsDefaultsAndVariables) {
  Values values;
  CaptureStdout();
  EXPECT_EQ(Parse(&values, {"--help"}), kExitOk);
  const std::string help = GetCapturedStdout();
  EXPECT_THAT(help, HasSubstr("ATOLL_MAX_COUNT"));
  EXPECT_THAT(help, HasSubstr("25s"));
  EXPECT_THAT(help, HasSubstr("1GiB"));
  EXPECT_THAT(help, HasSubstr("=true"));
  EXPECT_THAT(help, HasSubstr("a size"));
}

TEST(FlagSetTest, MistakesEndWithCode2AndSayWhatWasExpected) {
  struct Case {
    std::vector<std::string> arguments;
    std::string expected;
  };
  for (const Case& c :
       {Case{{"--max-cuont", "5"}, "unknown flag --max-cuont; did you mean --max-count?"},
        Case{{"--nothing-like-it"}, "unknown flag --nothing-like-it\n"},
        Case{{"--max-count", "many"}, "--max-count: expected a whole number, found \"many\""},
        Case{{"--max-count="}, "--max-count: expected a whole number, found \"\""},
        Case{{"--max-count=2147483648"}, "expected at most 2147483647, found 2147483648"},
        Case{{"--seed", "-1"}, "--seed: expected at least 0, found -1"},
        Case{{"--seed", "18446744073709551616"}, "expected at most 18446744073709551615"},
        Case{{"--share", "nan"}, "--share: expected a number, found \"nan\""},
        Case{{"--part", "1.5"}, "--part: expected 0 to 1, found 1.5"},
        Case{{"--depth", "9"}, "--depth: expected 0 to 4, found 9"},
        Case{{"--on=perhaps"}, "--on: expected true or false, found \"perhaps\""},
        Case{{"--on="}, "--on: expected true or false, found \"\""},
        Case{{"--few", "0"}, "--few: expected at least 1, found 0"},
        Case{{"--few", "3", "--few", "-2"}, "--few: expected at least 1, found -2"},
        Case{{"--bytes", "64G"}, "KiB, MiB, GiB, TiB, found \"64G\""},
        Case{{"--wait="}, "--wait: expected a time"},
        Case{{"--mode", "medium"}, "expected slow|fast, found \"medium\""},
        Case{{"--wait", "-1s"}, "--wait"},
        Case{{"--bytes", "3 parsecs"}, "--bytes"},
        Case{{"one", "two"}, "unexpected argument \"two\""}}) {
    Values values;
    CaptureStderr();
    EXPECT_EQ(Parse(&values, c.arguments), kExitUsage) << c.expected;
    EXPECT_THAT(GetCapturedStderr(), HasSubstr(c.expected));
  }
}

TEST(FlagSetTest, SizesAndTimesRefuseWhatIsNone) {
  EXPECT_EQ(ParseBytes("4KiB"), 4096);
  EXPECT_EQ(ParseBytes("4KB"), 4000);
  EXPECT_EQ(ParseBytes("17"), 17);
  EXPECT_EQ(ParseBytes("GiB"), std::nullopt);
  EXPECT_EQ(ParseBytes("-1"), std::nullopt);
  EXPECT_EQ(ParseBytes("99999999999TiB"), std::nullopt);
  EXPECT_EQ(ParseBytes("nanGiB"), std::nullopt);
  EXPECT_EQ(ParseSeconds("1.5"), absl::Milliseconds(1500));
  EXPECT_EQ(ParseSeconds("inf"), absl::InfiniteDuration());
  EXPECT_EQ(ParseSeconds(""), std::nullopt);
  EXPECT_EQ(ParseSeconds("soon"), std::nullopt);
}

}  // namespace
}  // namespace atl::cli
