#include "text/added_tokens.h"

#include <algorithm>

#include "text/char_set.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

bool IsSpace(std::string_view text, size_t pos) {
  return UnicodeClasses()[CodePointAt(text, pos).value] & kSpace;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    uint32_t at = 0;
    for (const char c : tokens_[i].content) {
      const auto byte = static_cast<unsigned char>(c);
      uint32_t next = Child(nodes_[at], byte);
      if (next == 0) {
        next = static_cast<uint32_t>(nodes_.size());
        nodes_.emplace_back();
        nodes_[at].children.emplace_back(byte, next);
      }
      at = next;
    }
    if (nodes_[at].token < 0) nodes_[at].token = static_cast<int32_t>(i);
  }
  for (const auto& [byte, child] : nodes_[0].children) first_[byte] = child;
}

uint32_t AddedTokenMatcher::Child(const Node& node, unsigned char byte) {
  for (const auto& [label, child] : node.children) {
    if (label == byte) return child;
  }
  return 0;
}

void AddedTokenMatcher::Split(std::string_view text, std::vector<Piece>* pieces) const {
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    uint32_t at = first_[static_cast<unsigned char>(text[pos])];
    const AddedToken* found = nullptr;
    for (size_t end = pos + 1; at != 0; ++end) {
      if (nodes_[at].token >= 0) found = &tokens_[nodes_[at].token];
      at = end < text.size() ? Child(nodes_[at], static_cast<unsigned char>(text[end])) : 0;
    }
    if (found == nullptr) {
      ++pos;
      continue;
    }
    size_t start = pos, end = pos + found->content.size();
    pos = end;
    if (found->lstrip) {
      while (start > done && IsSpace(text, PreviousStart(text, start)))
        start = PreviousStart(text, start);
    }
    if (found->rstrip) {
      while (end < text.size() && IsSpace(text, end)) end += CodePointAt(text, end).length;
    }
    if (start > done) pieces->push_back({text.substr(done, start - done), nullptr});
    pieces->push_back({text.substr(start, end - start), found});
    done = end;
  }
  if (done < text.size()) pieces->push_back({text.substr(done), nullptr});
}

}  // namespace atl::text
