#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "text/byte_level.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

using Ids = std::vector<uint32_t>;

std::string Spelt(std::string_view bytes) {
  std::string token;
  for (const char c : bytes) AppendUtf8(CharacterOfByte(static_cast<unsigned char>(c)), &token);
  return token;
}

TEST(ByteLevel, EveryByteHasItsCharacter) {
  std::map<char32_t, int> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    ++seen[CharacterOfByte(static_cast<unsigned char>(byte))];
    EXPECT_EQ(BytesOfToken(Spelt(bytes)), bytes);
  }
  EXPECT_EQ(seen.size(), 256);
  EXPECT_EQ(Spelt(" a\n"), "ĠaĊ");
  EXPECT_EQ(Spelt("é\xAD"), "Ã©Ń");
  EXPECT_EQ(BytesOfToken("a b"), std::nullopt);
  EXPECT_EQ(BytesOfToken("<｜User｜>"), std::nullopt);
  EXPECT_EQ(BytesOfToken(""), "");
}

// A vocabulary over `alphabet` made by `count` random merges of what is there.
TokenizerSpec RandomSpec(const std::string& alphabet, int count, std::mt19937* rng) {
  TokenizerSpec spec;
  std::vector<std::string> tokens;
  std::map<std::string, uint32_t> id;
  for (const char c : alphabet) tokens.emplace_back(1, c);
  for (const std::string& token : tokens) id.emplace(token, id.size() + 3);
  while (count-- > 0) {
    const std::string left = tokens[(*rng)() % tokens.size()],
                      right = tokens[(*rng)() % tokens.size()];
    const std::string joined = left + right;
    if (joined.size() > 12) continue;
    if (id.emplace(joined, id.size() + 3).second) tokens.push_back(joined);
    spec.merges.push_back({id[left], id[right], id[joined]});
  }
  for (const auto& [token, number] : id) spec.vocab.emplace_back(Spelt(token), number);
  return spec;
}

// The definition: merge the pair of lowest rank, the leftmost of these, until none is left.
Ids Naive(const TokenizerSpec& spec, const std::string& word) {
  std::map<std::string, uint32_t> id(spec.vocab.begin(), spec.vocab.end());
  std::map<std::pair<uint32_t, uint32_t>, std::pair<size_t, uint32_t>> rank;
  for (size_t i = 0; i < spec.merges.size(); ++i)
    rank[{spec.merges[i].left, spec.merges[i].right}] = {i, spec.merges[i].result};
  Ids ids;
  for (const char c : word) {
    const auto found = id.find(Spelt(std::string(1, c)));
    if (found != id.end()) ids.push_back(found->second);
  }
  while (true) {
    size_t best = spec.merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = rank.find({ids[i], ids[i + 1]});
      if (found != rank.end() && found->second.first < best) best = found->second.first, at = i;
    }
    if (best == spec.merges.size()) return ids;
    ids[at] = rank[{ids[at], ids[at + 1]}].second;
    ids.erase(ids.begin() + at + 1);
  }
}

// Short words by scanning, long ones by heap, whole words by lookup: all give what the definition
// gives.
TEST(Bpe, MergesAsDefined) {
  std::mt19937 rng(29);
  for (int vocabulary = 0; vocabulary < 40; ++vocabulary) {
    const std::string alphabet = vocabulary % 2 ? "ab" : "abc\xE4";
    const TokenizerSpec spec = RandomSpec(alphabet, 1 + rng() % 60, &rng);
    const Bpe bpe(spec);
    for (int round = 0; round < 200; ++round) {
      std::string word;
      for (int i = round % 10 == 0 ? 40 + rng() % 120 : rng() % 14; i > 0; --i) {
        word += rng() % 20 ? alphabet[rng() % alphabet.size()]
                           : 'z';  // z has no token: it adds nothing
      }
      Ids ids = {7};
      bpe.Encode(word, &ids);
      Ids expected = Naive(spec, word);
      expected.insert(expected.begin(), 7);
      ASSERT_EQ(ids, expected) << word;
    }
  }
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  TokenizerSpec spec;
  spec.vocab = {{"a", 0}, {"b", 1}, {"ab", 2}, {"abb", 3}};
  spec.merges = {{0, 1, 2}};
  Ids ids;
  Bpe(spec).Encode("abb", &ids);
  EXPECT_EQ(ids, (Ids{2, 1}));
  spec.ignore_merges = true;
  ids.clear();
  Bpe(spec).Encode("abb", &ids);
  EXPECT_EQ(ids, (Ids{3}));
}

// A megabyte in one word: n log n, not n squared.
TEST(Bpe, LongWordsAreLinear) {
  std::mt19937 rng(31);
  const TokenizerSpec spec = RandomSpec("ab", 200, &rng);
  const Bpe bpe(spec);
  std::string word;
  for (int i = 0; i < 1'000'000; ++i) word += "ab"[rng() % 2];
  Ids ids;
  bpe.Encode(word, &ids);
  std::string back;
  std::map<uint32_t, std::string> token;
  for (const auto& [spelt, id] : spec.vocab) token[id] = *BytesOfToken(spelt);
  for (const uint32_t id : ids) back += token[id];
  EXPECT_EQ(back, word);
}

TEST(MergeTable, FindsWhatIsThereAndNothingElse) {
  std::vector<TokenizerSpec::Merge> merges;
  for (uint32_t i = 0; i < 1000; ++i) merges.push_back({i * 7919 % 1000, i, i + 5000});
  merges.push_back({1, 2, 77});
  merges.push_back({1, 2, 78});  // the later one holds
  const MergeTable table(merges);
  for (uint32_t i = 0; i < 1000; ++i) {
    const auto entry = table.Find(i * 7919 % 1000, i);
    if (i == 2 && i * 7919 % 1000 == 1) continue;
    EXPECT_EQ(entry.rank, i);
    EXPECT_EQ(entry.result, i + 5000);
  }
  EXPECT_EQ(table.Find(1, 2).result, 78);
  EXPECT_EQ(table.Find(5, 1000).rank, MergeTable::kNone);
  EXPECT_EQ(table.Find(0, 0).rank, 0);
  EXPECT_EQ(MergeTable({}).Find(0, 0).rank, MergeTable::kNone);
}

}  // namespace
}  // namespace atl::text
