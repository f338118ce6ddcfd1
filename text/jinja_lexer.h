// Cuts a template into text and the tokens of its tags, with Jinja2's white space control.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::text::jinja {

struct Token {
  enum Kind {
    kText,
    kPrintBegin,
    kPrintEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kOperator,
    kEnd
  };
  Kind kind;
  std::string text;  // kString: its value; kOperator: itself
  int line;
};

// trim_blocks and lstrip_blocks are on, as transformers sets them; comments are left out; the last
// token is kEnd. InvalidArgument: a syntax error and its line. Unimplemented: floats, raw blocks,
// names and escapes outside the subset. Source: jinja2 3.1, lexer.py.
StatusOr<std::vector<Token>> Tokenize(const std::string& source);

}  // namespace atl::text::jinja
