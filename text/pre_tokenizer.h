// Cuts text into the words that BPE encodes one by one.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/splitter.h"
#include "text/tokenizer_spec.h"

namespace atl::text {

// Constant after construction; any thread may call.
class PreTokenizer {
 public:
  using SplitterMaker = StatusOr<std::unique_ptr<Splitter>> (*)(const std::string& regex);

  static StatusOr<PreTokenizer> Make(const TokenizerSpec& spec,
                                     SplitterMaker make_splitter = MakeSplitter);

  // Reused between texts by one thread at a time; holds what the words point into.
  struct Scratch {
    std::vector<std::string_view> words;
    std::vector<std::string_view> pieces;
    std::vector<std::string> prefixed;
  };
  // Sets scratch->words; they point into `text` or `scratch` and live as long as both are left
  // alone. REQUIRES: well-formed UTF-8.
  void Split(std::string_view text, Scratch* scratch) const;

 private:
  std::vector<std::unique_ptr<Splitter>> splitters_;
  std::unique_ptr<Splitter> gpt2_;  // of ByteLevel; may be absent
  bool add_prefix_space_ = false;
};

}  // namespace atl::text
