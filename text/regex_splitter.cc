#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>

#include "text/regex_syntax.h"
#include "text/splitter.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000, kHeapLimitKib = 65'536;

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* p) const {
    kFree(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;

class RegexSplitter : public Splitter {
 public:
  RegexSplitter(Code code, MatchContext context)
      : code_(std::move(code)), context_(std::move(context)) {}

  // The order of empty matches is that of the onig crate's find_iter: none directly behind a match.
  void Split(std::string_view text, std::vector<std::string_view>* pieces) const override {
    const MatchData data(pcre2_match_data_create(1, nullptr));
    size_t done = 0, from = 0;
    bool matched_before = false;
    const auto emit = [&](size_t end) {
      if (end > done) pieces->push_back(text.substr(done, end - done));
      done = end;
    };
    while (data != nullptr && from <= text.size()) {
      const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                 text.size(), from, PCRE2_NO_UTF_CHECK, data.get(), context_.get());
      if (rc < 0) break;
      const size_t start = pcre2_get_ovector_pointer(data.get())[0],
                   end = pcre2_get_ovector_pointer(data.get())[1];
      if (start == end && matched_before && end == from) {
        if (from >= text.size()) break;
        from += CodePointAt(text, from).length;
        matched_before = false;
        continue;
      }
      emit(start);
      emit(end);
      from = end;
      matched_before = true;
    }
    emit(text.size());
  }

 private:
  const Code code_;
  const MatchContext context_;
};

}  // namespace

StatusOr<std::unique_ptr<Splitter>> MakeRegexSplitter(const std::string& regex) {
  ATL_ASSIGN_OR_RETURN(const std::string translated, TranslateRegex(regex));
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                          PCRE2_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                          nullptr));
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return InvalidArgument("regular expression %s: %s", regex,
                           reinterpret_cast<const char*>(message));
  }
  // Without JIT (a kernel that forbids it) the interpreter gives the same matches.
  (void)pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  MatchContext context(pcre2_match_context_create(nullptr));
  if (context == nullptr) return ResourceExhausted("no memory for a PCRE2 match context");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  return std::unique_ptr<Splitter>(new RegexSplitter(std::move(code), std::move(context)));
}

StatusOr<std::unique_ptr<Splitter>> MakeSplitter(const std::string& regex) {
  if (auto fast = MakeFastSplitter(regex)) return fast;
  return MakeRegexSplitter(regex);
}

}  // namespace atl::text
