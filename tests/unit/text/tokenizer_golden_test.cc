// Ids and texts equal to those of HuggingFace's `tokenizers` (tests/golden/tokenizer/README.md).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace atl::text {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<uint32_t>;

constexpr char kDemo[] = "models/demo";
constexpr char kGolden[] = ATOLL_TOKENIZER_GOLDEN;
constexpr char kStored[] = "tests/golden/tokenizer";

std::vector<Json> Lines(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  return lines;
}

std::unique_ptr<Tokenizer> LoadOrDie(const std::string& dir) {
  auto tokenizer = Tokenizer::Load(dir);
  if (!tokenizer.ok()) {
    ADD_FAILURE() << tokenizer.status();
    std::abort();
  }
  return *std::move(tokenizer);
}

void ExpectEncodes(const Tokenizer& tokenizer, const Json& line) {
  const std::string text = line["text"];
  const Ids ids = tokenizer.Encode(text, false);
  EXPECT_EQ(ids, line["ids"].get<Ids>()) << text;
  EXPECT_EQ(tokenizer.Decode(ids, false), line["decoded"].get<std::string>());
}

TEST(TokenizerGolden, DeepSeekEncodes) {
  const auto tokenizer = LoadOrDie(kGolden);
  EXPECT_EQ(tokenizer->vocab_size(), 129280);
  const auto lines = Lines(std::string(kGolden) + "/encode.jsonl");
  EXPECT_EQ(lines.size(), 500);
  for (const Json& line : lines) {
    ExpectEncodes(*tokenizer, line);
    const std::string key =
        line.contains("decoded_skip_special") ? "decoded_skip_special" : "decoded";
    EXPECT_EQ(tokenizer->Decode(line["ids"].get<Ids>(), true), line[key].get<std::string>());
  }
}

TEST(TokenizerGolden, DeepSeekDecodes) {
  const auto tokenizer = LoadOrDie(kGolden);
  const auto lines = Lines(std::string(kGolden) + "/decode.jsonl");
  EXPECT_EQ(lines.size(), 100);
  for (const Json& line : lines) {
    EXPECT_EQ(tokenizer->Decode(line["ids"].get<Ids>(), false), line["decoded"].get<std::string>());
  }
}

// Whatever the cuts, the pieces of a stream put together are the text.
TEST(TokenizerGolden, StreamsDecodeLikeWholeTexts) {
  const auto tokenizer = LoadOrDie(kGolden);
  for (const Json& line : Lines(std::string(kGolden) + "/decode.jsonl")) {
    const Ids ids = line["ids"].get<Ids>();
    const std::string whole = line["decoded"];
    Utf8Stream by_token;
    std::string text, bytes;
    for (const uint32_t id : ids) {
      text += by_token.Push(tokenizer->TokenBytes(id, false));
      bytes += tokenizer->TokenBytes(id, false);
    }
    text += by_token.Flush();
    EXPECT_EQ(text, whole);
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
      Utf8Stream stream;
      std::string pieces = stream.Push(bytes.substr(0, cut));
      pieces += stream.Push(bytes.substr(cut));
      pieces += stream.Flush();
      EXPECT_EQ(pieces, whole) << "cut at " << cut;
    }
  }
}

TEST(TokenizerGolden, DemoEncodes) {
  const auto tokenizer = LoadOrDie(kDemo);
  for (const Json& line : Lines(std::string(kStored) + "/demo.jsonl"))
    ExpectEncodes(*tokenizer, line);
}

// The demo model's prompts: its conversation format written out here and by its template, its
// tokens from expected.json.
TEST(TokenizerGolden, DemoPrompts) {
  const auto tokenizer = LoadOrDie(kDemo);
  const Json expected = Json::parse(*ReadFile(std::string(kDemo) + "/expected.json"));
  const auto chat_template = ChatTemplate::Parse(tokenizer->chat_template());
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  int chats = 0, texts = 0;
  for (const Json& item : expected["cases"]) {
    if (item["kind"] == "chat") {
      std::string prompt = tokenizer->bos_token();
      for (const Json& message : item["messages"]) {
        const std::string content = message["content"];
        if (message["role"] == "system") prompt += content;
        if (message["role"] == "user") prompt += "<｜User｜>" + content;
        if (message["role"] == "assistant")
          prompt += "<｜Assistant｜>" + content + tokenizer->eos_token();
      }
      prompt += "<｜Assistant｜>";
      EXPECT_EQ(tokenizer->Encode(prompt, false), item["prompt_ids"].get<Ids>());
      std::vector<ChatMessage> messages;
      for (const Json& message : item["messages"])
        messages.push_back({message["role"], message["content"]});
      EXPECT_EQ(*(*chat_template)->Render(messages, tokenizer->bos_token(), tokenizer->eos_token()),
                prompt);
      ++chats;
    } else {
      EXPECT_EQ(tokenizer->Encode(item["text"].get<std::string>(), true),
                item["prompt_ids"].get<Ids>());
      ++texts;
    }
  }
  EXPECT_GT(chats, 5);
  EXPECT_GT(texts, 2);
}

TEST(TokenizerGolden, Variants) {
  const Json demo = Json::parse(*ReadFile(std::string(kDemo) + "/tokenizer.json"));
  const Json golden = Json::parse(*ReadFile(std::string(kStored) + "/variants.json"));
  EXPECT_GE(golden["variants"].size(), 10);
  for (const Json& variant : golden["variants"]) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    Json json = demo;
    json.merge_patch(variant["patch"]);
    const auto tokenizer = Tokenizer::Parse(json.dump(), "");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const Json& line : variant["cases"]) {
      ExpectEncodes(**tokenizer, line);
      const std::string text = line["text"];
      const Json& with_special = line.contains("with_special") ? line["with_special"] : line["ids"];
      EXPECT_EQ((*tokenizer)->Encode(text, true), with_special.get<Ids>()) << text;
      const Json& skipped = line.contains("skipped") ? line["skipped"] : line["decoded"];
      EXPECT_EQ((*tokenizer)->Decode(line["ids"].get<Ids>(), true), skipped.get<std::string>());
    }
  }
}

}  // namespace
}  // namespace atl::text
