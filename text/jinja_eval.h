// Renders a parsed chat template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"

namespace atl::text::jinja {

// The text of `body` with these variables.
// InvalidArgument: what Jinja2 would raise, with its line; or more work or output than any
// conversation needs. Unimplemented: an operation outside the subset that shows only now (printing
// a list, ...).
StatusOr<std::string> Evaluate(const Body& body,
                               std::vector<std::pair<std::string, Value>> variables);

}  // namespace atl::text::jinja
