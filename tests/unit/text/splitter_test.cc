#include "text/splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "text/char_set.h"
#include "text/regex_syntax.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

using Pieces = std::vector<std::string_view>;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kDeepSeekV3[] =
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|"
    "\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

Pieces Split(const std::string& regex, std::string_view text) {
  auto splitter = MakeRegexSplitter(regex);
  EXPECT_TRUE(splitter.ok()) << splitter.status();
  Pieces pieces;
  if (splitter.ok()) (*splitter)->Split(text, &pieces);
  return pieces;
}

TEST(CharSet, SetAlgebra) {
  CharSet set;
  set.Add('c', 'e');
  set.Add('a', 'b');
  set.Add('x', 'x');
  set.Add('d', 'f');
  ASSERT_EQ(set.ranges().size(), 2);
  EXPECT_EQ(set.ranges()[0], std::make_pair(U'a', U'f'));
  EXPECT_EQ(set.Complement().Complement(), set);
  EXPECT_EQ(set.Complement().ranges().front(), std::make_pair(U'\0', U'`'));
  EXPECT_EQ(set.Complement().ranges().back(), std::make_pair(char32_t{0xE000}, char32_t{0x10FFFF}));
}

TEST(CharSet, UnicodeClasses) {
  const CodePointTable& classes = UnicodeClasses();
  EXPECT_EQ(classes['a'], kLetter);
  EXPECT_EQ(classes[0x301], kMark);
  EXPECT_EQ(classes[0xBD], kNumber);
  EXPECT_EQ(classes[0x2167], kNumber);
  EXPECT_EQ(classes['_'], kPunctuation);
  EXPECT_EQ(classes['+'], kSymbol);
  for (const char32_t space : {0x85, 0x2028, 0x3000, 0xA0, 0x0B})
    EXPECT_EQ(classes[space], kSpace) << static_cast<uint32_t>(space);
  for (const char32_t other : {0x1C, 0x1F, 0x180E, 0x200B, 0xFEFF})
    EXPECT_EQ(classes[other], 0) << static_cast<uint32_t>(other);
  EXPECT_EQ(classes[0x1C89], kLetter);  // new in Unicode 16
}

TEST(RegexSplitter, MatchesAndWhatLiesBetween) {
  EXPECT_THAT(Split("b+", "abbcb"), ElementsAre("a", "bb", "c", "b"));
  EXPECT_THAT(Split("x", ""), ElementsAre());
  EXPECT_THAT(Split("x", "ab"), ElementsAre("ab"));
  EXPECT_THAT(Split("(?=b)", "abab"), ElementsAre("a", "ba", "b"));
  EXPECT_THAT(Split("a*", "baac"), ElementsAre("b", "aa", "c"));
  EXPECT_THAT(Split("\\s+(?!\\S)|\\s+", "a   b  "), ElementsAre("a", "  ", " ", "b", "  "));
  EXPECT_THAT(Split("[^\\S\n]+", "a \n\tb"), ElementsAre("a", " ", "\n", "\t", "b"));
  EXPECT_THAT(Split("\\s+$", "a \n b "), ElementsAre("a", " ", "\n b", " "));
  EXPECT_THAT(Split("[一-龥]", "a中b"), ElementsAre("a", "中", "b"));
  EXPECT_THAT(Split("\\u4e2d|\\x{6587}", "中文字"), ElementsAre("中", "文", "字"));
  EXPECT_THAT(Split("[\\-\\]a]", "x-]y"), ElementsAre("x", "-", "]", "y"));
}

TEST(RegexSplitter, NamesWhatItDoesNotKnow) {
  for (const char* regex :
       {"\\d",    "\\w+",    "\\b",   "\\p{Lu}", "\\p{Han}", "[[:alpha:]]", "[a&&b]",
        "(?i:a)", "(?<x>a)", "a{,3}", "a{2}+",   "a{1,2}?",  "a**",         "a+*",
        "\\1",    "\\A",     "[]a]",  "a]",      "{",        "[a[b]]",      "\\xE4"}) {
    const auto splitter = MakeRegexSplitter(regex);
    EXPECT_EQ(splitter.status().code(), absl::StatusCode::kUnimplemented)
        << regex << " " << splitter.status();
    EXPECT_THAT(std::string(splitter.status().message()), HasSubstr("at byte")) << regex;
  }
  for (const char* regex : {"[a", "\\", "(a", "a)", "[z-a]", "[\\s-a]", "\\p{L", "\\pL", "*",
                            "\\u12", "\\x{110000}", "\\x{61", "\\ud800", "a\xff", "(?<=a+)b"}) {
    EXPECT_FALSE(MakeSplitter(regex).ok()) << regex;
  }
}

// A search that would take 2^200 steps is given up: the match behind it is not found, the text
// stays whole.
TEST(RegexSplitter, RunawayExpressionsEnd) {
  EXPECT_THAT(Split("(?:a+)+[bc]", "aa!ab"), ElementsAre("aa!", "ab"));
  const std::string text = std::string(200, 'a') + "!ab";
  EXPECT_THAT(Split("(?:a+)+[bc]", text), ElementsAre(text));
}

TEST(FastSplitter, KnowsTheExpressionsOfDeepSeek) {
  for (const char* regex : {"\\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", kDeepSeekV3, "[\r\n]",
                            "\\s?[A-Za-z]+", "\\s?[!-/:-~]+", "\\s+$", "\\s+", "\\p{N}", "x"}) {
    EXPECT_NE(MakeFastSplitter(regex), nullptr) << regex;
  }
  for (const char* regex :
       {"a|b", "a*", "(?:a)+", "ab", "\\s?", "", "a{2,3}", "a{1,}", "^a", "\xff"}) {
    EXPECT_EQ(MakeFastSplitter(regex), nullptr) << regex;
  }
}

// Characters of every kind that the expressions tell apart, and some of any.
std::string RandomText(std::mt19937* rng) {
  static const char32_t kKinds[] = {
      'a',    'Z',    0xE9,   0x4E2D, 0x9FA5, 0x9FA6,   0x3042,  0x30FB, 0x30FC, 0x3099,
      0x309B, 0x3040, 0xAC00, 0x301,  0x5B0,  0x200D,   0x00AD,  0x200B, 0xFEFF, 0x180E,
      0,      0x1F,   0x7F,   0xE000, 0x378,  0x10FFFF, '0',     '9',    0xBD,   0x2167,
      0x660,  '!',    '\'',   '_',    '-',    '$',      '+',     '<',    '[',    '\\',
      ']',    '`',    '~',    0xBF,   0x3002, 0x20AC,   0x1F600, ' ',    ' ',    ' ',
      '\t',   '\n',   '\n',   '\r',   0x0B,   0x85,     0xA0,    0x2028, 0x3000, 0x1680};
  std::string text;
  const int length = (*rng)() % 24;
  while (static_cast<int>(text.size()) < length) {
    char32_t c = kKinds[(*rng)() % std::size(kKinds)];
    if ((*rng)() % 8 == 0) c = (*rng)() % 0x110000;
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    for (int repeat = (*rng)() % 6 == 0 ? 3 : 1; repeat > 0; --repeat) AppendUtf8(c, &text);
  }
  return text;
}

TEST(FastSplitter, SplitsAsPcre2) {
  for (const char* regex :
       {"\\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", kDeepSeekV3, "[\r\n]", "\\s?[A-Za-z]+",
        "\\s?[^\\s\\p{L}]+", "\\s?[ \n\\p{N}]{1,2}", "\\s?\\p{L}", "\\s+$", "\\s+", "."}) {
    const auto fast = MakeFastSplitter(regex);
    const auto slow = MakeRegexSplitter(regex);
    ASSERT_NE(fast, nullptr) << regex;
    ASSERT_TRUE(slow.ok()) << slow.status();
    std::mt19937 rng(17);
    Pieces expected, found;
    for (int round = 0; round < 20000; ++round) {
      const std::string text = RandomText(&rng);
      expected.clear();
      found.clear();
      (*slow)->Split(text, &expected);
      fast->Split(text, &found);
      ASSERT_EQ(found, expected) << regex << " on: " << testing::PrintToString(text);
    }
  }
}

// Every code point alone and between its likes: the tables behind both splitters are one, their use
// is not.
TEST(FastSplitter, EveryCodePointSplitsAsByPcre2) {
  const auto fast = MakeFastSplitter(kDeepSeekV3);
  const auto slow = *MakeRegexSplitter(kDeepSeekV3);
  Pieces expected, found;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string text = "a.";
    AppendUtf8(c, &text);
    AppendUtf8(c, &text);
    text += "b ";
    AppendUtf8(c, &text);
    text += "\n";
    expected.clear();
    found.clear();
    slow->Split(text, &expected);
    fast->Split(text, &found);
    ASSERT_EQ(found, expected) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace atl::text
