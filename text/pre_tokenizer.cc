#include "text/pre_tokenizer.h"

namespace atl::text {
namespace {

// ByteLevel's own expression (use_regex).  Source: GPT-2 encoder.py.
constexpr char kGpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

}  // namespace

StatusOr<PreTokenizer> PreTokenizer::Make(const TokenizerSpec& spec, SplitterMaker make_splitter) {
  PreTokenizer result;
  for (const std::string& regex : spec.split_regexes) {
    ATL_ASSIGN_OR_RETURN(auto splitter, make_splitter(regex));
    result.splitters_.push_back(std::move(splitter));
  }
  if (spec.use_gpt2_regex) {
    ATL_ASSIGN_OR_RETURN(result.gpt2_, make_splitter(kGpt2));
  }
  result.add_prefix_space_ = spec.add_prefix_space;
  return result;
}

void PreTokenizer::Split(std::string_view text, Scratch* scratch) const {
  auto& [words, pieces, prefixed] = *scratch;
  words.assign(1, text);
  const auto apply = [&words = words, &pieces = pieces](const Splitter& splitter) {
    pieces.clear();
    for (const std::string_view word : words) splitter.Split(word, &pieces);
    std::swap(words, pieces);
  };
  for (const auto& splitter : splitters_) apply(*splitter);
  if (add_prefix_space_) {
    prefixed.assign(words.size(), " ");
    for (size_t i = 0; i < words.size(); ++i) {
      if (words[i].substr(0, 1) == " ") continue;
      prefixed[i].append(words[i]);
      words[i] = prefixed[i];
    }
  }
  if (gpt2_ != nullptr) apply(*gpt2_);
}

}  // namespace atl::text
