// Values of chat templates: what Jinja2 would hold as Python objects.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace atl::text::jinja {

class Value;
using List = std::vector<Value>;
// In the order of insertion; keys are strings.
using Dict = std::vector<std::pair<std::string, Value>>;

// A name, attribute or item that does not exist. It prints as nothing, is false, iterates as empty;
// the rest is an error.
struct Undefined {
  std::shared_ptr<const std::string> name;
};
struct None {};
// namespace(...): the one thing a template can change. Holds no other namespace, so none can hold
// itself.
struct Namespace {
  Dict fields;
};
// The variable `loop` inside a for.
struct Loop {
  std::shared_ptr<const List> items;
  size_t index0;
  int items_depth;
};

// Cheap to copy: texts, lists and dicts are shared and never change.
class Value {
 public:
  Value() : data_(None{}) {}
  Value(bool value) : data_(value) {}                                   // NOLINT
  Value(int64_t value) : data_(value) {}                                // NOLINT
  Value(std::string value);                                             // NOLINT
  Value(List value);                                                    // NOLINT
  Value(Dict value);                                                    // NOLINT
  Value(std::shared_ptr<Namespace> value) : data_(std::move(value)) {}  // NOLINT
  Value(Loop value);                                                    // NOLINT
  Value(const char*) = delete;                                          // would be a bool
  static Value MakeUndefined(std::string name);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  // The parts; nullptr if it is something else.
  const std::string* string() const { return Shared<std::string>(); }
  const List* list() const { return Shared<List>(); }
  const Dict* dict() const { return Shared<Dict>(); }
  std::shared_ptr<const List> shared_list() const;
  Namespace* name_space() const;
  const Loop* loop() const { return std::get_if<Loop>(&data_); }
  // An integer or, as in Python, a bool.
  bool is_integer() const { return std::holds_alternative<int64_t>(data_) || is_bool(); }
  int64_t integer() const;  // REQUIRES: is_integer()

  // How deep lists and dicts are nested in it; the evaluator bounds it, as functions here and
  // destruction recurse.
  int depth() const { return depth_; }
  // What going through all of it costs, shared parts as often as they show: its items and an eighth
  // of its bytes.
  int64_t weight() const { return weight_; }
  bool Truth() const;
  std::string TypeName() const;       // for messages: "undefined", "string", ...
  std::string UndefinedName() const;  // REQUIRES: is_undefined()

 private:
  void Hold(const Value& item);  // counts it in depth and weight
  template <typename T>
  const T* Shared() const {
    const auto* pointer = std::get_if<std::shared_ptr<const T>>(&data_);
    return pointer == nullptr ? nullptr : pointer->get();
  }

  std::variant<Undefined, None, bool, int64_t, std::shared_ptr<const std::string>,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
               Loop>
      data_;
  int depth_ = 0;
  int64_t weight_ = 1;
};

// The value of `key`; nullptr if there is none.
const Value* Find(const Dict& dict, std::string_view key);

// Python's ==.
bool Equal(const Value& a, const Value& b);

// Python's str(). Unimplemented for lists, dicts and other objects, whose Python spelling no prompt
// wants.
StatusOr<std::string> ToText(const Value& value);

// json.dumps(value, ensure_ascii=False), which transformers calls tojson; indent < 0: on one line.
StatusOr<std::string> ToJson(const Value& value, int indent);

// Python's str.isspace for one code point: White_Space and U+001C to U+001F.
bool IsPythonSpace(char32_t c);
// Without the characters in `set` at the ends; white space if `set` is nullptr.
std::string_view StripLeft(std::string_view text, const std::string* set = nullptr);
std::string_view StripRight(std::string_view text, const std::string* set = nullptr);

}  // namespace atl::text::jinja
