#include "text/utf8.h"

#include <gtest/gtest.h>

#include <random>

#include "text/tokenizer.h"

namespace atl::text {
namespace {

// The table of Unicode 16, section 3.9, "U+FFFD Substitution of Maximal Subparts", and more.
TEST(Utf8, MaximalIllFormedPieces) {
  const std::pair<std::string, std::string> cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xF4\x91\x92\x93\xFF"
       "A\x80\xBF"
       "B",
       "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
       "A\uFFFD\uFFFD"
       "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
       "A",
       "\uFFFD\uFFFD\uFFFD\uFFFD"
       "A"},
      {"\xF4\x8F\xBF\xBF\xF4\x90\x80\x80", "\U0010FFFF\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"a\xE4\xB8", "a\uFFFD"},
      {"\xF0\x9F\x98", "\uFFFD"},
      {std::string("a\0b", 3), std::string("a\0b", 3)},
      {"", ""},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(ReplaceIllFormed(bytes), text);
    EXPECT_EQ(IsWellFormed(bytes), bytes == text);
    EXPECT_TRUE(IsWellFormed(text));
  }
}

TEST(Utf8, EveryCodePointComesBack) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    std::string text;
    AppendUtf8(c, &text);
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(IsWellFormed(text), !surrogate) << static_cast<uint32_t>(c);
    const CodePoint read = CodePointAt(text, 0);
    ASSERT_EQ(read.value, c);
    ASSERT_EQ(read.length, static_cast<int>(text.size()));
    ASSERT_EQ(PreviousStart(text, text.size()), 0);
  }
}

TEST(Utf8Stream, EmitsCharactersWhenTheyAreComplete) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xF0\x9F"), "a");
  EXPECT_FALSE(stream.empty());
  EXPECT_EQ(stream.Push("\x98"), "");
  EXPECT_EQ(stream.Push("\x80z"), "😀z");
  EXPECT_TRUE(stream.empty());
  EXPECT_EQ(stream.Push("\xE4\xB8"), "");
  EXPECT_EQ(stream.Push("x"), "\uFFFDx");
  EXPECT_EQ(stream.Push("\xE4"), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

// However the bytes are cut, the stream gives what one decoding gives; nothing complete waits.
TEST(Utf8Stream, RandomBytesInRandomPieces) {
  std::mt19937 rng(3);
  const unsigned char bytes[] = {0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2,
                                 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5};
  for (int round = 0; round < 20000; ++round) {
    std::string all, out;
    Utf8Stream stream;
    for (int i = rng() % 8; i >= 0; --i) {
      std::string piece;
      for (int j = rng() % 4; j > 0; --j)
        piece += static_cast<char>(bytes[rng() % std::size(bytes)]);
      all += piece;
      out += stream.Push(piece);
      EXPECT_EQ(out, ReplaceIllFormed(all).substr(0, out.size()));
      EXPECT_LE(ReplaceIllFormed(all).size(), out.size() + 3);  // one unfinished character at most
    }
    out += stream.Flush();
    ASSERT_EQ(out, ReplaceIllFormed(all));
  }
}

}  // namespace
}  // namespace atl::text
