// Finds the added tokens of a tokenizer in a text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_spec.h"

namespace atl::text {

// The longest token at the leftmost place, then on behind it. Constant after construction; any
// thread may call.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  struct Piece {
    std::string_view text;
    const AddedToken* token;  // nullptr: text between tokens
  };
  // Appends the parts of `text` in order; none is empty. REQUIRES: well-formed UTF-8.
  // Source: tokenizers, AddedVocabulary::find_matches.
  void Split(std::string_view text, std::vector<Piece>* pieces) const;

 private:
  struct Node {
    int32_t token = -1;  // place in tokens_
    std::vector<std::pair<unsigned char, uint32_t>> children;
  };
  static uint32_t Child(const Node& node, unsigned char byte);

  const std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;            // [0] is the root
  std::array<uint32_t, 256> first_{};  // the root's children; 0: none
};

}  // namespace atl::text
