#include "text/bpe.h"

#include <queue>

#include "text/byte_level.h"

namespace atl::text {
namespace {

constexpr uint32_t kNone = MergeTable::kNone;
constexpr size_t kShort = 48;  // bytes; up to here a scan for the lowest rank beats a heap

// Two powers above: at most half full.
int TableBits(size_t count) {
  int bits = 4;
  while ((size_t{1} << bits) < 2 * count) ++bits;
  return bits;
}

}  // namespace

MergeTable::MergeTable(const std::vector<TokenizerSpec::Merge>& merges)
    : shift_(64 - TableBits(merges.size())),
      entries_(size_t{1} << TableBits(merges.size()), Entry{0, kNone, 0}) {
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t pair = uint64_t{merges[rank].left} << 32 | merges[rank].right;
    size_t at = Hash(pair) >> shift_;
    while (entries_[at].rank != kNone && entries_[at].pair != pair)
      at = (at + 1) & (entries_.size() - 1);
    entries_[at] = {
        pair, rank,
        merges[rank].result};  // of a pair given twice the later rank holds, as in tokenizers
  }
}

Bpe::Bpe(const TokenizerSpec& spec) : merges_(spec.merges) {
  byte_id_.fill(kNone);
  struct Word {
    size_t begin, size;
    uint32_t id;
  };
  std::vector<Word> words;
  for (const auto& [token, id] : spec.vocab) {
    const auto bytes = BytesOfToken(token);
    if (!bytes || bytes->empty()) continue;
    if (bytes->size() == 1) byte_id_[static_cast<unsigned char>((*bytes)[0])] = id;
    words.push_back({pool_.size(), bytes->size(), id});
    pool_ += *bytes;
  }
  // A word that is a token is that token if its merges lead there: found once here, looked up ever
  // after.
  whole_words_.reserve(words.size());
  std::vector<uint32_t> ids;
  for (const Word& word : words) {
    const std::string_view bytes(pool_.data() + word.begin, word.size);
    ids.clear();
    if (!spec.ignore_merges) Merge(bytes, &ids);
    if (spec.ignore_merges || (ids.size() == 1 && ids[0] == word.id))
      whole_words_.emplace(bytes, word.id);
  }
}

void Bpe::Encode(std::string_view word, std::vector<uint32_t>* ids) const {
  if (const auto it = whole_words_.find(word); it != whole_words_.end()) {
    ids->push_back(it->second);
  } else {
    Merge(word, ids);
  }
}

void Bpe::Merge(std::string_view word, std::vector<uint32_t>* ids) const {
  if (word.size() <= kShort) {
    MergeShort(word, ids);
  } else {
    MergeLong(word, ids);
  }
}

void Bpe::MergeShort(std::string_view word, std::vector<uint32_t>* ids) const {
  uint32_t symbol[kShort], rank[kShort], result[kShort] = {};
  size_t count = 0;
  for (const char c : word) {
    const uint32_t id = byte_id_[static_cast<unsigned char>(c)];
    if (id != kNone) symbol[count++] = id;
  }
  const auto look_up = [&](size_t i) {
    const MergeTable::Entry entry = merges_.Find(symbol[i], symbol[i + 1]);
    rank[i] = entry.rank;
    result[i] = entry.result;
  };
  if (count == 0) return;
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  rank[count - 1] = kNone;  // the last symbol has no right neighbour
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (rank[i] < rank[best]) best = i;
    }
    if (rank[best] == kNone) break;
    symbol[best] = result[best];
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbol[i] = symbol[i + 1];
      rank[i] = rank[i + 1];
      result[i] = result[i + 1];
    }
    rank[best] = kNone;
    if (best > 0) look_up(best - 1);
    if (best + 1 < count) look_up(best);
  }
  ids->insert(ids->end(), symbol, symbol + count);
}

void Bpe::MergeLong(std::string_view word, std::vector<uint32_t>* ids) const {
  struct Symbol {
    uint32_t id;  // kNone: merged into the one before
    int64_t previous, next;
  };
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const uint32_t id = byte_id_[static_cast<unsigned char>(c)];
    if (id == kNone) continue;
    const auto at = static_cast<int64_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  struct Candidate {
    uint32_t rank;
    int64_t at;
    uint32_t left, right, result;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](int64_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const uint32_t left = symbols[at].id, right = symbols[symbols[at].next].id;
    const MergeTable::Entry entry = merges_.Find(left, right);
    if (entry.rank != kNone) queue.push({entry.rank, at, left, right, entry.result});
  };
  for (size_t at = 0; at + 1 < symbols.size(); ++at) offer(static_cast<int64_t>(at));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.at];
    if (left.id != best.left || left.next < 0 || symbols[left.next].id != best.right)
      continue;  // merged meanwhile
    Symbol& right = symbols[left.next];
    left.id = best.result;
    right.id = kNone;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.at;
    offer(left.previous);
    offer(best.at);
  }
  for (int64_t at = 0; at >= 0; at = symbols[at].next) ids->push_back(symbols[at].id);
}

}  // namespace atl::text
