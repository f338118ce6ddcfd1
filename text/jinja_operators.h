// The operators of chat templates on values: Python's meaning.
#pragma once

#include <string>

#include "text/jinja_value.h"

namespace atl::text::jinja {

// + - * // % ~.  InvalidArgument: what Python would raise, integers beyond 64 bits, texts beyond
// kMaxTextBytes.
StatusOr<Value> Arithmetic(const std::string& op, const Value& left, const Value& right);

// == != < <= > >= in "not in".
StatusOr<bool> Compare(const std::string& op, const Value& left, const Value& right);

// object.name and object[key]. What is not there is undefined; of undefined, an error.
StatusOr<Value> GetAttribute(const Value& object, const std::string& name);
StatusOr<Value> GetItem(const Value& object, const Value& key);

// object[start:stop:step] of a list or text; nullptr where absent.
StatusOr<Value> GetSlice(const Value& object, const Value* start, const Value* stop,
                         const Value* step);

}  // namespace atl::text::jinja
