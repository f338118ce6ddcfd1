// Cuts text at the matches of a regular expression: tokenizers' `Split` with behaviour Isolated.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace atl::text {

// Constant after construction; any thread may call.
class Splitter {
 public:
  virtual ~Splitter() = default;

  // Appends to `pieces` the matches in `text` and what lies between them, in order; none is empty.
  // REQUIRES: `text` is well-formed UTF-8. The pieces point into it.
  virtual void Split(std::string_view text, std::vector<std::string_view>* pieces) const = 0;
};

// A hand-written scanner where one is known for `regex` (FastSplitter), else PCRE2 (RegexSplitter).
StatusOr<std::unique_ptr<Splitter>> MakeSplitter(const std::string& regex);

// nullptr if `regex` is none of: SET, SET+, SET{1,n}, each with \s? before it or not; \s+$; and the
// last of the three expressions of DeepSeek-V3's tokenizer. Their time is linear in the text.
std::unique_ptr<Splitter> MakeFastSplitter(const std::string& regex);

// By PCRE2 (JIT). Unimplemented or InvalidArgument as regex_syntax.h says. Work is bounded: where a
// search exceeds its match limit (nested repetitions of a foreign expression), the rest of that
// text stays one piece.
StatusOr<std::unique_ptr<Splitter>> MakeRegexSplitter(const std::string& regex);

}  // namespace atl::text
