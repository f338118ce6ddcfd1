#include <limits>

#include "text/char_set.h"
#include "text/regex_syntax.h"
#include "text/splitter.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

constexpr uint8_t kMember = 1, kBlank = 2;

CodePointTable TableOf(const CharSet& set) {
  std::vector<CodePointTable::Range> ranges;
  for (const auto& [first, last] : set.ranges()) ranges.push_back({first, last, kMember});
  const CharSet blanks = CharSet::Of(kSpace);
  for (const auto& [first, last] : blanks.ranges()) ranges.push_back({first, last, kBlank});
  return CodePointTable(ranges);
}

// SET{1,max}, with \s? before it if `blank_before`.
class RunSplitter : public Splitter {
 public:
  RunSplitter(const CharSet& set, bool blank_before, size_t max)
      : table_(TableOf(set)), starts_(kMember | (blank_before ? kBlank : 0)), max_(max) {}

  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    size_t done = 0;
    for (size_t pos = 0; pos < text.size();) {
      const CodePoint c = CodePointAt(text, pos);
      const uint8_t bits = table_[c.value];
      if (!(bits & starts_)) {
        pos += c.length;
        continue;
      }
      // \s? takes the blank if a member follows; a blank that is a member itself may also begin the
      // run.
      size_t end = bits & starts_ & kBlank ? RunEnd(text, pos + c.length) : pos;
      if (end <= pos + c.length) end = bits & kMember ? RunEnd(text, pos) : pos;
      if (end == pos) {
        pos += c.length;
        continue;
      }
      if (pos > done) pieces->push_back(text.substr(done, pos - done));
      pieces->push_back(text.substr(pos, end - pos));
      pos = done = end;
    }
    if (text.size() > done) pieces->push_back(text.substr(done));
  }

 private:
  size_t RunEnd(std::string_view text, size_t pos) const {
    for (size_t count = 0; pos < text.size() && count < max_; ++count) {
      const CodePoint c = CodePointAt(text, pos);
      if (!(table_[c.value] & kMember)) break;
      pos += c.length;
    }
    return pos;
  }

  const CodePointTable table_;
  const uint8_t starts_;
  const size_t max_;
};

size_t SpacesEnd(std::string_view text, size_t pos) {
  const CodePointTable& classes = UnicodeClasses();
  while (pos < text.size()) {
    const CodePoint c = CodePointAt(text, pos);
    if (!(classes[c.value] & kSpace)) break;
    pos += c.length;
  }
  return pos;
}

// \s+$: a run of blanks up to the end of the text or to its last line feed.
class TrailingBlanksSplitter : public Splitter {
 public:
  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    const CodePointTable& classes = UnicodeClasses();
    size_t done = 0;
    for (size_t pos = 0; pos < text.size();) {
      const CodePoint c = CodePointAt(text, pos);
      if (!(classes[c.value] & kSpace)) {
        pos += c.length;
        continue;
      }
      const size_t run_end = SpacesEnd(text, pos);
      size_t end = run_end;
      if (run_end < text.size()) {
        const size_t feed = text.substr(pos, run_end - pos).rfind('\n');
        end = feed == std::string_view::npos ? pos : pos + feed;
      }
      if (end > pos) {
        if (pos > done) pieces->push_back(text.substr(done, pos - done));
        pieces->push_back(text.substr(pos, end - pos));
        done = end;
      }
      pos = run_end;
    }
    if (text.size() > done) pieces->push_back(text.substr(done));
  }
};

// The last of DeepSeek-V3's three expressions. Its alternatives, tried in this order at each place:
constexpr char kDeepSeekV3[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"  // ASCII punctuation and the word
                                                             // behind it
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"  // a word, with one other character before it
    "| ?[\\p{P}\\p{S}]+[\r\n]*"  // punctuation, with a space before and line ends behind
    "|\\s*[\r\n]+"               // blanks up to the last line end among them
    "|\\s+(?!\\S)"               // blanks but the last, which goes with the next word
    "|\\s+";

class DeepSeekV3Splitter : public Splitter {
 public:
  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    size_t done = 0;
    for (size_t pos = 0; pos < text.size();) {
      const size_t end = MatchEnd(text, pos);
      if (end == pos) {
        pos += CodePointAt(text, pos).length;
        continue;
      }
      if (pos > done) pieces->push_back(text.substr(done, pos - done));
      pieces->push_back(text.substr(pos, end - pos));
      pos = done = end;
    }
    if (text.size() > done) pieces->push_back(text.substr(done));
  }

 private:
  static constexpr uint8_t kWord = kLetter | kMark, kSign = kPunctuation | kSymbol;

  static bool IsAsciiLetter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
  static bool IsLineEnd(char c) { return c == '\r' || c == '\n'; }

  // Where the run of characters with any of `bits` that begins at `pos` ends.
  size_t RunEnd(std::string_view text, size_t pos, uint8_t bits) const {
    while (pos < text.size()) {
      const CodePoint c = CodePointAt(text, pos);
      if (!(classes_[c.value] & bits)) break;
      pos += c.length;
    }
    return pos;
  }

  size_t SignsEnd(std::string_view text, size_t pos) const {
    pos = RunEnd(text, pos, kSign);
    while (pos < text.size() && IsLineEnd(text[pos])) ++pos;
    return pos;
  }

  // The end of the match that begins at `pos`; `pos` if none does.
  size_t MatchEnd(std::string_view text, size_t pos) const {
    const CodePoint c = CodePointAt(text, pos);
    const uint8_t bits = classes_[c.value];
    const size_t next = pos + c.length;
    const uint8_t next_bits = next < text.size() ? classes_[CodePointAt(text, next).value] : 0;
    if (bits & kWord) return RunEnd(text, next, kWord);
    if (bits & kSign) {
      if (c.value >= 0x80 || next >= text.size() || !IsAsciiLetter(text[next]))
        return SignsEnd(text, next);
      size_t end = next + 1;
      while (end < text.size() && IsAsciiLetter(text[end])) ++end;
      return end;
    }
    if ((next_bits & kWord) && !(c.length == 1 && IsLineEnd(text[pos])))
      return RunEnd(text, next, kWord);
    if (!(bits & kSpace)) return pos;
    if (c.value == ' ' && (next_bits & kSign)) return SignsEnd(text, next);
    const size_t run_end = RunEnd(text, next, kSpace);
    for (size_t end = run_end; end > pos; --end) {
      if (IsLineEnd(text[end - 1])) return end;
    }
    if (run_end == text.size()) return run_end;
    const size_t last = PreviousStart(text, run_end);
    return last > pos ? last : run_end;
  }

  const CodePointTable& classes_ = UnicodeClasses();
};

// The n of a trailing "", "+" or "{1,n}" at regex[pos]; 0 if it is another ending.
size_t ParseRunLength(const std::string& ending) {
  if (ending.empty()) return 1;
  if (ending == "+") return std::numeric_limits<size_t>::max();
  if (ending.size() != 5 || ending.compare(0, 3, "{1,") != 0 || ending[4] != '}') return 0;
  return ending[3] >= '1' && ending[3] <= '9' ? ending[3] - '0' : 0;
}

}  // namespace

std::unique_ptr<Splitter> MakeFastSplitter(const std::string& regex) {
  if (!IsWellFormed(regex)) return nullptr;
  if (regex == kDeepSeekV3) return std::make_unique<DeepSeekV3Splitter>();
  if (regex == "\\s+$") return std::make_unique<TrailingBlanksSplitter>();
  const bool blank_before = regex.compare(0, 3, "\\s?") == 0;
  size_t pos = blank_before ? 3 : 0;
  const StatusOr<CharSet> set = ParseSet(regex, &pos);
  if (!set.ok()) return nullptr;
  const size_t max = ParseRunLength(regex.substr(pos));
  if (max == 0) return nullptr;
  return std::make_unique<RunSplitter>(*set, blank_before, max);
}

}  // namespace atl::text
