// Byte-pair encoding of one word.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "text/tokenizer_spec.h"

namespace atl::text {

// Hash of (left, right) -> (rank, result): open addressing, at most half full.
class MergeTable {
 public:
  static constexpr uint32_t kNone = ~0u;
  struct Entry {
    uint64_t pair;
    uint32_t rank;  // kNone: an empty place
    uint32_t result;
  };

  explicit MergeTable(const std::vector<TokenizerSpec::Merge>& merges);

  // rank kNone if the two do not merge.
  Entry Find(uint32_t left, uint32_t right) const {
    const uint64_t pair = uint64_t{left} << 32 | right;
    for (size_t at = Hash(pair) >> shift_;; at = (at + 1) & (entries_.size() - 1)) {
      if (entries_[at].pair == pair || entries_[at].rank == kNone) return entries_[at];
    }
  }

 private:
  static uint64_t Hash(uint64_t pair) { return pair * 0x9E3779B97F4A7C15u; }

  int shift_;
  std::vector<Entry> entries_;
};

// Constant after construction; any thread may call.
class Bpe {
 public:
  // REQUIRES: the ids of spec.merges are those of tokens in spec.vocab.
  explicit Bpe(const TokenizerSpec& spec);

  // Appends the ids of `word` (any bytes): always the adjacent pair of lowest rank is merged, the
  // leftmost first. Bytes without a token add nothing. n bytes take O(n log n).
  void Encode(std::string_view word, std::vector<uint32_t>* ids) const;

 private:
  void Merge(std::string_view word, std::vector<uint32_t>* ids) const;
  void MergeShort(std::string_view word, std::vector<uint32_t>* ids) const;
  void MergeLong(std::string_view word, std::vector<uint32_t>* ids) const;

  std::array<uint32_t, 256> byte_id_;
  MergeTable merges_;
  std::string pool_;                                             // the bytes of whole_words_' keys
  absl::flat_hash_map<std::string_view, uint32_t> whole_words_;  // words that are one token
};

}  // namespace atl::text
