// The functions, methods, filters and tests that chat templates may use; their meaning is Jinja2's
// (Python's).
//   functions  namespace range raise_exception
//   methods    strip lstrip rstrip split rsplit startswith endswith replace join items keys values
//   get filters    trim tojson length count default d join first last string list replace tests
//   defined undefined none string number integer boolean true false mapping sequence iterable
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace atl::text::jinja {

bool IsFunction(std::string_view name);
bool IsMethod(std::string_view name);
bool IsFilter(std::string_view name);
bool IsTest(std::string_view name);
// Attributes that every dict has in Python, beside its items.
bool IsPythonMethod(std::string_view name);

constexpr size_t kMaxTextBytes = size_t{64} << 20;  // of one text; a whole prompt has less
constexpr size_t kMaxItems = 1'000'000;             // of one list
constexpr int64_t kMaxRange = 100'000;              // as in Jinja2's sandbox

struct CallArguments {
  std::vector<Value> by_place;
  std::vector<std::pair<std::string, Value>> by_name;
};

// InvalidArgument: what Python would raise, or a result beyond the bounds. Unimplemented: arguments
// outside the subset.
StatusOr<Value> CallFunction(const std::string& name, const CallArguments& arguments);
StatusOr<Value> CallMethod(const Value& object, const std::string& name,
                           const CallArguments& arguments);
StatusOr<Value> ApplyFilter(const Value& input, const std::string& name,
                            const CallArguments& arguments);
StatusOr<bool> ApplyTest(const Value& value, const std::string& name,
                         const CallArguments& arguments);

// What a for goes through: a list, a dict's keys, a text's characters, nothing for undefined.
StatusOr<Value> ListOf(const Value& value);

}  // namespace atl::text::jinja
