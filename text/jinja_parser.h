// Parses the subset of Jinja2 that published DeepSeek chat templates use.
#pragma once

#include <string>

#include "base/status.h"
#include "text/jinja_ast.h"

namespace atl::text::jinja {

// Statements: set (names, namespace attributes), if, for (targets, filter, else). Expressions: all
// but floats, tuples, powers and true division; the functions, methods, filters and tests of
// jinja_builtins.h. InvalidArgument: a syntax error. Unimplemented: names the construct. Both name
// the line.
StatusOr<Body> ParseTemplate(const std::string& source);

}  // namespace atl::text::jinja
