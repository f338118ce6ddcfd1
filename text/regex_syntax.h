// The regular expressions of tokenizer.json, written in Oniguruma's Ruby syntax, and their form for
// PCRE2.
#pragma once

#include <cstddef>
#include <string>

#include "base/status.h"
#include "text/char_set.h"

namespace atl::text {

// Reads one set at regex[*pos] and moves *pos behind it: `[...]`, `\p{L}`, `\s`, `.`, an escape or
// a literal. Unimplemented names what is outside the subset: other escapes, properties other than L
// M N P S, nested classes, `&&`.
StatusOr<CharSet> ParseSet(const std::string& regex, size_t* pos);

// The same expression for PCRE2 (UTF, MULTILINE): every set is spelt out as ranges, so that it has
// this program's Unicode tables, not PCRE2's. Unimplemented names a construct that is not known to
// mean the same in both.
StatusOr<std::string> TranslateRegex(const std::string& regex);

}  // namespace atl::text
