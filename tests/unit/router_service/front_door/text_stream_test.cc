#include "router_service/front_door/text_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;
using Ids = std::vector<uint32_t>;

const text::Tokenizer& DemoTokenizer() {
  static const text::Tokenizer* tokenizer = [] {
    auto loaded = text::Tokenizer::Load("models/demo");
    if (!loaded.ok()) {
      ADD_FAILURE() << loaded.status();
      std::abort();
    }
    return loaded->release();
  }();
  return *tokenizer;
}

std::string Bytes(const Ids& ids) {
  std::string bytes;
  for (const uint32_t id : ids) bytes += DemoTokenizer().TokenBytes(id, /*skip_special=*/true);
  return bytes;
}

// Tokens of one byte each.
Ids ByteIds(const std::string& bytes) {
  Ids out;
  for (const char c : bytes) {
    uint32_t id = 3;
    while (DemoTokenizer().TokenBytes(id, true) != std::string_view(&c, 1)) ++id;
    out.push_back(id);
  }
  return out;
}

// Bytes at the end that begin a character and do not complete it. By the table of well-formed UTF-8
// (Unicode, 3-7).
size_t UnfinishedBytes(const std::string& bytes) {
  for (size_t n = 1; n <= 3 && n <= bytes.size(); ++n) {
    const auto at = [&](size_t i) {
      return static_cast<unsigned char>(bytes[bytes.size() - n + i]);
    };
    const unsigned lead = at(0);
    if (lead < 0x80) return 0;
    if (lead < 0xC0) continue;
    const size_t length = lead >= 0xC2 && lead < 0xE0   ? 2
                          : lead >= 0xE0 && lead < 0xF0 ? 3
                          : lead >= 0xF0 && lead < 0xF5 ? 4
                                                        : 0;
    if (n >= length) return 0;
    if (n >= 2) {
      const unsigned second = at(1);
      if (lead == 0xE0 && second < 0xA0) return 0;
      if (lead == 0xED && second > 0x9F) return 0;
      if (lead == 0xF0 && second < 0x90) return 0;
      if (lead == 0xF4 && second > 0x8F) return 0;
    }
    return n;
  }
  return 0;
}

// Text of all characters of `ids` that are complete.
std::string CompleteText(const Ids& ids) {
  const std::string whole = DemoTokenizer().Decode(ids, /*skip_special_tokens=*/true);
  return UnfinishedBytes(Bytes(ids)) == 0
             ? whole
             : whole.substr(0, whole.size() - 3);  // less the U+FFFD at its end
}

struct Answer {
  std::string text;
  Ids ids;
  bool stopped = false;
};

// What the whole generation answers, found by looking at the whole text after each token.
Answer Expected(const Ids& ids, const std::vector<std::string>& stops) {
  for (size_t n = 1; n <= ids.size(); ++n) {
    const Ids head(ids.begin(), ids.begin() + n);
    const std::string text =
        n == ids.size() ? DemoTokenizer().Decode(head, true) : CompleteText(head);
    size_t cut = std::string::npos;
    for (const std::string& stop : stops) cut = std::min(cut, text.find(stop));
    if (cut != std::string::npos) return {text.substr(0, cut), head, true};
  }
  return {DemoTokenizer().Decode(ids, true), ids, false};
}

struct Streamed : Answer {
  std::vector<pb::GenerateStreamResponse> deltas;
  // Text and number of tokens after each delta, `resumed` ones counted.
  std::vector<std::pair<std::string, size_t>> cuts;
};

Streamed Stream(const Ids& ids, const std::vector<std::string>& stops, size_t resumed = 0) {
  TextStream stream(&DemoTokenizer(), stops);
  Streamed out;
  out.stopped = stream.Resume({ids.data(), resumed});
  const auto take = [&] {
    pb::GenerateStreamResponse delta;
    if (!stream.Take(&delta)) return;
    out.text += delta.text();
    out.ids.insert(out.ids.end(), delta.token_ids().begin(), delta.token_ids().end());
    out.cuts.emplace_back(out.text, resumed + out.ids.size());
    out.deltas.push_back(delta);
  };
  for (size_t i = resumed; i < ids.size() && !out.stopped; ++i) {
    pb::TokenLogprob logprob;
    logprob.set_id(ids[i]);
    out.stopped = stream.Push(ids[i], logprob);
    take();
  }
  if (!out.stopped) {
    out.stopped = stream.Finish();
    take();
  }
  return out;
}

void CheckStream(const Ids& ids, const std::vector<std::string>& stops) {
  const Answer expected = Expected(ids, stops);
  const Streamed streamed = Stream(ids, stops);
  ASSERT_EQ(streamed.text, expected.text);
  ASSERT_EQ(streamed.ids, expected.ids);
  ASSERT_EQ(streamed.stopped, expected.stopped);
  for (const auto& delta : streamed.deltas) {
    ASSERT_EQ(delta.logprobs_size(), delta.token_ids_size());
    for (int i = 0; i < delta.logprobs_size(); ++i)
      ASSERT_EQ(delta.logprobs(i).id(), delta.token_ids(i));
  }
  // Between deltas the client has exactly the text of its tokens, and a stream resumed there goes
  // on exactly so.
  for (size_t c = 0; c + 1 < streamed.cuts.size(); ++c) {
    const auto& [text, num_tokens] = streamed.cuts[c];
    const Ids had(ids.begin(), ids.begin() + num_tokens);
    ASSERT_EQ(text, DemoTokenizer().Decode(had, true));
    const Streamed rest = Stream(ids, stops, num_tokens);
    ASSERT_EQ(text + rest.text, expected.text) << "cut after " << num_tokens;
    ASSERT_EQ(num_tokens + rest.ids.size(), expected.ids.size());
    ASSERT_EQ(rest.stopped, expected.stopped);
  }
  // A cut anywhere: complete characters are had, and the rest follows.
  for (size_t k = 0; k <= expected.ids.size(); ++k) {
    const Streamed rest = Stream(ids, stops, k);
    ASSERT_EQ(rest.stopped, expected.stopped);
    if (rest.stopped && k == expected.ids.size()) {
      ASSERT_EQ(rest.text, "");
      continue;
    }
    const std::string had = CompleteText(Ids(ids.begin(), ids.begin() + k));
    // What was had may reach into the stop string; then nothing is added.
    ASSERT_EQ(had.size() > expected.text.size() ? expected.text : had + rest.text, expected.text)
        << "cut after " << k;
    ASSERT_EQ(Ids(expected.ids.begin() + k, expected.ids.end()), rest.ids);
  }
}

TEST(TextStreamTest, CharactersOfSeveralTokensComeWhole) {
  const Ids ids = ByteIds("a\xE4\xB8\xADz");
  const Streamed streamed = Stream(ids, {});
  ASSERT_EQ(streamed.deltas.size(), 3);
  EXPECT_EQ(streamed.deltas[0].text(), "a");
  EXPECT_EQ(streamed.deltas[1].text(), "\xE4\xB8\xAD");
  EXPECT_EQ(streamed.deltas[1].token_ids_size(), 3);
  EXPECT_EQ(streamed.deltas[2].text(), "z");
  CheckStream(ids, {});
}

TEST(TextStreamTest, AnUnfinishedEndBecomesAReplacementCharacter) {
  const Streamed streamed = Stream(ByteIds("a\xF0\x9F\x98"), {});
  EXPECT_EQ(streamed.text, "a\xEF\xBF\xBD");
  EXPECT_EQ(streamed.ids.size(), 4);
}

TEST(TextStreamTest, AStopStringAcrossTokensEndsTheTextBeforeIt) {
  const Ids ids = ByteIds("one END two");
  const Streamed streamed = Stream(ids, {"END"});
  EXPECT_TRUE(streamed.stopped);
  EXPECT_EQ(streamed.text, "one ");
  EXPECT_EQ(streamed.ids, ByteIds("one END"));
  // The tokens of "EN" were withheld: they came with the one that completed it.
  EXPECT_EQ(streamed.deltas.back().token_ids_size(), 3);
  EXPECT_EQ(streamed.deltas.back().text(), "");
  CheckStream(ids, {"END"});
}

TEST(TextStreamTest, WhatOnlyLookedLikeAStopStringFollows) {
  const Streamed streamed = Stream(ByteIds("ENT"), {"END"});
  ASSERT_EQ(streamed.deltas.size(), 1);
  EXPECT_EQ(streamed.deltas[0].text(), "ENT");
  EXPECT_EQ(streamed.deltas[0].token_ids_size(), 3);
}

TEST(TextStreamTest, SpecialTokensAddNoTextAndKeepTheirPlace) {
  Ids ids = ByteIds("a\xE4");
  ids.push_back(0);  // inside a character
  for (const uint32_t id : ByteIds("\xB8\xAD")) ids.push_back(id);
  ids.push_back(1);
  const Streamed streamed = Stream(ids, {});
  EXPECT_EQ(streamed.text, "a\xE4\xB8\xAD");
  EXPECT_EQ(streamed.ids, ids);
  CheckStream(ids, {"a"});
  CheckStream(ids, {"\xE4\xB8\xAD"});
}

TEST(TextStreamTest, AStopStringMayBeginInResumedTokens) {
  const Ids ids = ByteIds("xEND");
  TextStream stream(&DemoTokenizer(), {"END"});
  ASSERT_FALSE(stream.Resume({ids.data(), 3}));
  EXPECT_TRUE(stream.Push(ids[3], std::nullopt));
  pb::GenerateStreamResponse delta;
  ASSERT_TRUE(stream.Take(&delta));
  EXPECT_EQ(delta.text(), "");
  EXPECT_EQ(delta.token_ids_size(), 1);
  TextStream ended(&DemoTokenizer(), {"END"});
  EXPECT_TRUE(ended.Resume(ids));
}

TEST(TextStreamTest, AReplacementCharacterAtTheEndMayCompleteAStopString) {
  CheckStream(ByteIds("ab\xE4"), {"b\xEF\xBF\xBD"});
  EXPECT_EQ(Stream(ByteIds("ab\xE4"), {"b\xEF\xBF\xBD"}).text, "a");
}

TEST(TextStreamTest, WithoutATokenizerEachTokenGoesAtOnce) {
  TextStream stream(nullptr, {});
  EXPECT_FALSE(stream.Resume(Ids{5, 6}));
  for (const uint32_t id : {7u, 8u}) {
    EXPECT_FALSE(stream.Push(id, std::nullopt));
    pb::GenerateStreamResponse delta;
    ASSERT_TRUE(stream.Take(&delta));
    EXPECT_EQ(delta.text(), "");
    ASSERT_EQ(delta.token_ids_size(), 1);
    EXPECT_EQ(delta.token_ids(0), id);
    EXPECT_EQ(delta.logprobs_size(), 0);
  }
  EXPECT_FALSE(stream.Finish());
  pb::GenerateStreamResponse delta;
  EXPECT_FALSE(stream.Take(&delta));
}

TEST(TextStreamTest, NothingIsWithheldWithoutNeed) {
  TextStream stream(&DemoTokenizer(), {"END"});
  for (const uint32_t id : DemoTokenizer().Encode("The latent cache stores one vector.", false)) {
    stream.Push(id, std::nullopt);
    pb::GenerateStreamResponse delta;
    ASSERT_TRUE(stream.Take(&delta));
    EXPECT_EQ(delta.text(), DemoTokenizer().TokenBytes(id, true));
  }
}

TEST(TextStreamTest, EveryCutOfATextWithManyKindsOfCharacters) {
  const std::string text = "Größe 中文字 😀👩‍👩‍👧 e\xCC\x81 END END";
  CheckStream(DemoTokenizer().Encode(text, false), {});
  CheckStream(ByteIds(text), {});
  CheckStream(ByteIds(text), {"END"});
  CheckStream(ByteIds(text), {"文字 😀"});
  CheckStream(ByteIds(text), {"ND E", "ENDE", "字"});
}

TEST(TextStreamTest, RandomTokensAndStopStrings) {
  std::mt19937 random(20240607);
  const Ids halves = ByteIds(
      "\xE4\xB8\xAD\xF0\x9F\x98\x80\xC3\xA9\xFF\xC0"
      "ab");
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    Ids ids;
    for (int i = 0; i < 24; ++i) {
      const uint32_t kind = random() % 8;
      ids.push_back(kind < 5    ? halves[random() % halves.size()]
                    : kind == 5 ? random() % 3
                                : random() % 2048);
    }
    std::vector<std::string> stops;
    const std::string text = DemoTokenizer().Decode(ids, true);
    for (uint32_t s = random() % 4; s > 0; --s) {
      // Some characters of the text itself, so that it is found often, sometimes with another end.
      size_t begin = random() % (text.size() + 1);
      while (begin < text.size() && (text[begin] & 0xC0) == 0x80) ++begin;
      size_t end = std::min(text.size(), begin + 1 + random() % 9);
      while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
      std::string stop = text.substr(begin, end - begin);
      if (random() % 3 == 0) stop += "b";
      if (!stop.empty()) stops.push_back(stop);
    }
    CheckStream(ids, stops);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace atl::front_door
