// JSON from files that nobody vouches for: parsed without exceptions, duplicate keys and deep
// nesting refused.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"

namespace atl::model {

// Parses an object. InvalidArgument (naming `where`) if the text is not JSON, not UTF-8, not an
// object, names a key twice in one object, or nests deeper than 32.
StatusOr<nlohmann::json> ParseJsonObject(const std::string& text, const std::string& where);

// "null", "a string", ...: what was found where something else was expected.
std::string JsonTypeName(const nlohmann::json& value);

}  // namespace atl::model
