#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/file.h"

namespace atl::text {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<uint32_t>;
using ::testing::HasSubstr;

constexpr char kDemo[] = "models/demo";

// Sets the file's added tokens to these, with all that is not said false.
Json WithAddedTokens(Json json, const Json& tokens) {
  for (Json& token : json["added_tokens"] = tokens) {
    for (const char* key : {"special", "normalized", "lstrip", "rstrip", "single_word"})
      token.emplace(key, false);
  }
  return json;
}

// A tokenizer with three letters, two merges and three added tokens.
Json Small() {
  const Json json = Json::parse(R"({
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, "merges": ["a b", ["ab", "c"]]}
  })");
  return WithAddedTokens(
      json,
      Json::parse(R"([{"id": 5, "content": "<s>", "special": true}, {"id": 6, "content": "<s>>"},
                                               {"id": 7, "content": "</s>", "special": true}])"));
}

Status ParseStatus(const Json& json, const std::string& config = "") {
  return Tokenizer::Parse(json.dump(), config).status();
}

TEST(Tokenizer, EncodesAndDecodes) {
  const auto tokenizer = *Tokenizer::Parse(Small().dump(), "");
  EXPECT_EQ(tokenizer->Encode("abcabx", false),
            (Ids{4, 3}));  // neither x nor the space has a token
  EXPECT_EQ(tokenizer->Encode("ab c", false), (Ids{3, 2}));
  EXPECT_EQ(tokenizer->Encode("a<s>>b<s>", false), (Ids{0, 6, 1, 5}));
  EXPECT_EQ(tokenizer->Encode("", true), Ids{});
  EXPECT_EQ(tokenizer->Decode({4, 5, 6, 3}, false), "abc<s><s>>ab");
  EXPECT_EQ(tokenizer->Decode({4, 5, 6, 3}, true), "abc<s>>ab");
  EXPECT_EQ(tokenizer->Decode({8, 0, 4'000'000'000, 1}, false), "ab");
  EXPECT_EQ(tokenizer->vocab_size(), 8);
  EXPECT_TRUE(tokenizer->is_special(5));
  EXPECT_FALSE(tokenizer->is_special(6));
  EXPECT_FALSE(tokenizer->is_special(1000));
  EXPECT_EQ(tokenizer->TokenBytes(7, false), "</s>");
  EXPECT_EQ(tokenizer->TokenBytes(7, true), "");
  EXPECT_EQ(tokenizer->TokenBytes(8, false), "");
}

TEST(Tokenizer, SpecialTokensAroundATextAsTheConfigAsks) {
  Json json = Small();
  const auto around = [&](const std::string& config) {
    const auto tokenizer = Tokenizer::Parse(json.dump(), config);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->Encode("a", true) : Ids{};
  };
  const std::string names = R"("bos_token": "<s>", "eos_token": {"content": "</s>"})";
  EXPECT_EQ(around(""), (Ids{0}));
  EXPECT_EQ(around("{" + names + "}"), (Ids{0}));
  EXPECT_EQ(around("{\"add_bos_token\": true, " + names + "}"), (Ids{5, 0}));
  EXPECT_EQ(around("{\"add_bos_token\": true, \"add_eos_token\": true, " + names + "}"),
            (Ids{5, 0, 7}));
  json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"x": {"ids": [7, 5]}}})");
  EXPECT_EQ(around(""), (Ids{7, 5, 0}));
  EXPECT_EQ(around("{\"add_bos_token\": false, " + names + "}"), (Ids{0}));
  EXPECT_EQ(around("{\"add_bos_token\": true, " + names + "}"), (Ids{5, 0}));
  json["post_processor"]["special_tokens"]["x"]["ids"] = {8};
  EXPECT_THAT(std::string(ParseStatus(json).message()), HasSubstr("unknown id 8"));
  EXPECT_THAT(
      std::string(ParseStatus(Small(), R"({"add_bos_token": true, "bos_token": "<x>"})").message()),
      HasSubstr("add_bos_token is true, but the token \"<x>\" is not in tokenizer.json"));
}

TEST(Tokenizer, IllFormedTextIsRepairedFirst) {
  const auto tokenizer = *Tokenizer::Load(kDemo);
  for (const auto& [bytes, text] : {std::pair<std::string, std::string>("a\xff"
                                                                        "b",
                                                                        "a\uFFFDb"),
                                    {"\xE4\xB8", "\uFFFD"},
                                    {"x\xF0\x9F\x98 y", "x\uFFFD y"}}) {
    EXPECT_EQ(tokenizer->Encode(bytes, false), tokenizer->Encode(text, false));
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(bytes, false), false), text);
  }
}

TEST(Tokenizer, RefusesByNameWhatItDoesNotSupport) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"normalizer": {"type": "NFC"}})", "normalizer NFC"},
      {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}})",
       "normalizer Lowercase"},
      {R"({"pre_tokenizer": {"type": "Metaspace"}})", "pre_tokenizer Metaspace"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": false}, {"type": "Digits"}]}})",
       "pre_tokenizer Digits behind ByteLevel"},
      {R"({"pre_tokenizer": {"type": "Digits", "individual_digits": true}})",
       "pre_tokenizer without ByteLevel"},
      {R"({"pre_tokenizer": null})", "pre_tokenizer null"},
      {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed"}})",
       "behavior \"Removed\""},
      {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": true}})",
       "invert"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": "\\d|x"}}, {"type": "ByteLevel", "add_prefix_space": false}]}})",
       "escape \\d"},
      {R"({"post_processor": {"type": "BertProcessing"}})", "post_processor BertProcessing"},
      {R"({"decoder": {"type": "WordPiece"}})", "decoder WordPiece"},
      {R"({"model": {"type": "Unigram"}})", "model type \"Unigram\""},
      {R"({"model": {"dropout": 0.1}})", "model dropout 0.1"},
      {R"({"model": {"unk_token": "a"}})", "unk_token"},
      {R"({"model": {"byte_fallback": true}})", "byte_fallback"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "end_of_word_suffix"},
      {R"({"truncation": {"max_length": 3}})", "truncation"},
  };
  for (const auto& [patch, what] : cases) {
    Json json = Small();
    json.merge_patch(Json::parse(patch));
    const Status status = ParseStatus(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << patch << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what)) << patch;
  }
}

TEST(Tokenizer, MalformedFilesAreInvalid) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"model": {"vocab": 5}})", "model.vocab"},
      {R"({"model": {"vocab": {"a": -1}}})", "model.vocab: expected an id"},
      {R"({"model": {"vocab": {"a": 1.5}}})", "model.vocab: expected an id"},
      {R"({"model": {"vocab": {"a": "0"}}})", "model.vocab: expected an id"},
      {R"({"model": {"vocab": {"a": 4294967296}}})", "model.vocab: expected an id"},
      {R"({"model": {"vocab": {"a": 4194304}}})", "model.vocab: expected an id"},
      {R"({"model": {"vocab": {"d": 1}}})", "id 1 is that of b and d"},
      {R"({"model": {"merges": [["a", "x"]]}})", "a + x"},
      {R"({"model": {"merges": [["a", "c"]]}})", "a + c"},
      {R"({"model": {"merges": ["a"]}})", "model.merges: expected"},
      {R"({"model": {"merges": ["a b c"]}})", "model.merges: expected"},
      {R"({"model": {"merges": [["a", "b", "c"]]}})", "model.merges: expected"},
      {R"({"model": {"merges": [[1, 2]]}})", "model.merges: expected"},
      {R"({"model": {"merges": {}}})", "model.merges: expected an array"},
      {R"({"model": {"ignore_merges": 1}})", "ignore_merges"},
      {R"({"added_tokens": {}})", "added_tokens: expected an array"},
      {R"({"added_tokens": [1]})", "no content"},
      {R"({"added_tokens": [{"id": 9, "content": ""}]})", "no content"},
      {R"({"added_tokens": [{"content": "x"}]})", "added token x"},
      {R"({"added_tokens": [{"id": 9, "content": "x"}]})", "special: expected true or false"},
      {R"({"pre_tokenizer": {"type": "ByteLevel"}})", "add_prefix_space: expected true or false"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": 3}})", "Sequence"},
      {R"({"pre_tokenizer": {"pretokenizers": [{"type": "Split", "behavior": "Isolated", "invert": false, "pattern": 3}, {"type": "ByteLevel"}]}})",
       "pattern"},
      {R"({"pre_tokenizer": {"pretokenizers": [{"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": "(a"}}, {"type": "ByteLevel", "add_prefix_space": false}]}})",
       "regular expression (a"},
      {R"({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]}})",
       "no ids"},
  };
  for (const auto& [patch, what] : cases) {
    Json json = Small();
    json.merge_patch(Json::parse(patch));
    const Status status = ParseStatus(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << patch << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what)) << patch;
  }
  for (const char* text : {"", "{", "[]", "null", "5", "{\"model\": \xff}"}) {
    EXPECT_EQ(Tokenizer::Parse(text, "").status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  for (const char* config :
       {"[]", "{", R"({"bos_token": 5})", R"({"add_bos_token": "yes"})", R"({"chat_template": 5})",
        R"({"chat_template": [{"name": "tool_use"}]})"}) {
    EXPECT_EQ(ParseStatus(Small(), config).code(), absl::StatusCode::kInvalidArgument) << config;
  }
}

TEST(Tokenizer, AddedTokensThatContradict) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([{"id": 4, "content": "x"}])", "added token x: its id 4"},
      {R"([{"id": 9, "content": "a"}])", "added token a: its id 9"},
      {R"([{"id": 9, "content": "x"}, {"id": 9, "content": "y"}])", "added token y: its id 9"},
      {R"([{"id": 9, "content": "x"}, {"id": 10, "content": "x"}])", "added token x: its id 10"},
      {R"([{"id": 9, "content": "x", "special": "yes"}])", "special: expected true or false"},
      {R"([{"id": 9, "content": "x", "single_word": true}])", "added token x: single_word"},
  };
  for (const auto& [tokens, what] : cases) {
    const Status status = ParseStatus(WithAddedTokens(Small(), Json::parse(tokens)));
    EXPECT_FALSE(status.ok()) << tokens;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what)) << tokens;
  }
  // Said twice alike is no contradiction; neither is a token that the vocabulary has under the same
  // id.
  const Json twice = Json::parse(
      R"([{"id": 9, "content": "x"}, {"id": 9, "content": "x"}, {"id": 4, "content": "abc", "special": true}])");
  const auto tokenizer = Tokenizer::Parse(WithAddedTokens(Small(), twice).dump(), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("xabc", false), (Ids{9, 4}));
  EXPECT_TRUE((*tokenizer)->is_special(4));
}

// Nested a million deep, where nothing or something is expected.
TEST(Tokenizer, DeepNestingIsNoDanger) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  for (const char* key :
       {"model", "normalizer", "pre_tokenizer", "added_tokens", "decoder", "other"}) {
    std::string text = Small().dump();
    text.insert(1, std::string("\"") + key + "\": " + deep +
                       ",");  // of a key given twice the last one holds
    EXPECT_TRUE(Tokenizer::Parse(text, "").ok()) << key;
    text = Small().dump();
    text.insert(text.size() - 1, std::string(",\"") + key + "\": " + deep);
    EXPECT_EQ(Tokenizer::Parse(text, "").ok(), std::string(key) == "other") << key;
  }
}

// Flipped, cut and doubled bytes of a real file: a status, never a crash; what loads also encodes.
TEST(Tokenizer, SurvivesDamagedFiles) {
  Json json = Small();
  json["pre_tokenizer"] =
      Json::parse(*ReadFile(std::string(kDemo) + "/tokenizer.json"))["pre_tokenizer"];
  const std::string whole = json.dump();
  std::mt19937 rng(41);
  int loaded = 0, refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = whole;
    for (int i = rng() % 3; i >= 0; --i) {
      const size_t at = rng() % text.size();
      const size_t size = 1 + rng() % 12;
      switch (rng() % 4) {
        case 0:
          text[at] = static_cast<char>(rng());
          break;
        case 1:
          text.erase(at, size);
          break;
        case 2:
          text.insert(at, text.substr(rng() % text.size(), size));
          break;
        default:
          text[at] = "0123456789[]{}\",:-\\"[rng() % 19];
          break;
      }
    }
    const auto tokenizer = Tokenizer::Parse(text, "");
    (tokenizer.ok() ? loaded : refused) += 1;
    if (tokenizer.ok())
      (*tokenizer)->Decode((*tokenizer)->Encode("ab c 12 <s> 中文\n  x", true), true);
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 500);
}

TEST(Tokenizer, LoadNamesTheMissingFile) {
  const std::string dir = testing::TempDir() + "/tokenizer_test";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  Status status = Tokenizer::Load(dir).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/tokenizer.json"));
  ASSERT_TRUE(WriteFileAtomically(dir + "/tokenizer.json", Small().dump()).ok());
  // The other file may be absent.
  EXPECT_EQ((*Tokenizer::Load(dir))->chat_template(), "");
  const std::string config =
      R"({"chat_template": [{"name": "x", "template": "X"}, {"name": "default", "template": "D"}], "bos_token": null})";
  ASSERT_TRUE(WriteFileAtomically(dir + "/tokenizer_config.json", config).ok());
  EXPECT_EQ((*Tokenizer::Load(dir))->chat_template(), "D");
  EXPECT_EQ((*Tokenizer::Load(dir))->bos_token(), "");
  ASSERT_TRUE(WriteFileAtomically(dir + "/chat_template.jinja", "J").ok());
  EXPECT_EQ((*Tokenizer::Load(dir))->chat_template(), "J");
  std::filesystem::remove_all(dir);
}

TEST(Tokenizer, ThreadsShareIt) {
  const auto tokenizer = *Tokenizer::Load(kDemo);
  const std::string text = "The router sends tokens to experts, 12345 times. 你好\n\n  <｜User｜>";
  const Ids expected = tokenizer->Encode(text, true);
  std::vector<std::thread> threads;
  std::atomic<int> same = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) same += tokenizer->Encode(text, true) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, 800);
}

}  // namespace
}  // namespace atl::text
