#include "text/char_set.h"

#include <algorithm>
#include <map>

namespace atl::text {
namespace {

const CodePointTable::Range kRanges[] = {
#include "text/unicode_ranges.inc"
};

constexpr char32_t kLimit = 0x110000;

}  // namespace

CodePointTable::CodePointTable(const std::vector<Range>& ranges) : block_of_(kLimit >> 8) {
  std::vector<uint8_t> bits(kLimit, 0);
  for (const Range& range : ranges) {
    for (char32_t c = range.first; c <= range.last; ++c) bits[c] |= range.bits;
  }
  std::map<std::string, uint32_t> known;
  for (size_t block = 0; block < block_of_.size(); ++block) {
    const std::string values(bits.begin() + block * 256, bits.begin() + block * 256 + 256);
    const auto [it, is_new] = known.emplace(values, static_cast<uint32_t>(blocks_.size()));
    if (is_new) blocks_.insert(blocks_.end(), values.begin(), values.end());
    block_of_[block] = it->second;
  }
}

const CodePointTable& UnicodeClasses() {
  static const CodePointTable table({std::begin(kRanges), std::end(kRanges)});
  return table;
}

CharSet CharSet::Of(uint8_t classes) {
  CharSet set;
  for (const CodePointTable::Range& range : kRanges) {
    if (range.bits & classes) set.ranges_.emplace_back(range.first, range.last);
  }
  set.Normalize();
  return set;
}

void CharSet::Add(char32_t first, char32_t last) {
  ranges_.emplace_back(first, last);
  Normalize();
}

void CharSet::Add(const CharSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  Normalize();
}

void CharSet::Normalize() {
  std::sort(ranges_.begin(), ranges_.end());
  std::vector<std::pair<char32_t, char32_t>> merged;
  for (const auto& range : ranges_) {
    if (!merged.empty() && range.first <= merged.back().second + 1) {
      merged.back().second = std::max(merged.back().second, range.second);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
}

CharSet CharSet::Complement() const {
  CharSet taken = *this;
  taken.Add(0xD800, 0xDFFF);
  CharSet result;
  char32_t next = 0;
  for (const auto& [first, last] : taken.ranges_) {
    if (first > next) result.ranges_.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next < kLimit) result.ranges_.emplace_back(next, kLimit - 1);
  return result;
}

}  // namespace atl::text
