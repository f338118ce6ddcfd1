// Sets of code points, and the Unicode classes that tokenizers' regular expressions speak of.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace atl::text {

// The classes are bits; a code point has at most one of the first five. kSpace is White_Space
// (regex \s).
enum UnicodeClass : uint8_t {
  kLetter = 1,
  kMark = 2,
  kNumber = 4,
  kPunctuation = 8,
  kSymbol = 16,
  kSpace = 32,
};

// One byte for every code point, stored in blocks of 256, equal blocks once. Constant after
// construction.
class CodePointTable {
 public:
  // `value_of`: ranges {first, last} and the bits to set there.
  struct Range {
    char32_t first, last;
    uint8_t bits;
  };
  explicit CodePointTable(const std::vector<Range>& ranges);
  uint8_t operator[](char32_t c) const { return blocks_[block_of_[c >> 8] + (c & 0xFF)]; }

 private:
  std::vector<uint32_t> block_of_;  // [0x1100]: where the block begins in blocks_
  std::vector<uint8_t> blocks_;
};

// UnicodeClass bits of every code point.
const CodePointTable& UnicodeClasses();

// Code points as sorted, disjoint ranges; surrogates are in no set.
class CharSet {
 public:
  static CharSet Of(uint8_t classes);  // everything that has one of these UnicodeClass bits

  void Add(char32_t first, char32_t last);
  void Add(const CharSet& other);
  CharSet Complement() const;
  const std::vector<std::pair<char32_t, char32_t>>& ranges() const { return ranges_; }
  bool operator==(const CharSet&) const = default;

 private:
  void Normalize();

  std::vector<std::pair<char32_t, char32_t>> ranges_;
};

}  // namespace atl::text
