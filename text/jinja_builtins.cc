#include "text/jinja_builtins.h"

#include <algorithm>
#include <limits>

#include "text/utf8.h"

namespace atl::text::jinja {
namespace {

template <size_t kCount>
bool IsOneOf(std::string_view name, const std::string_view (&names)[kCount]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

constexpr std::string_view kFunctions[] = {"namespace", "range", "raise_exception"};
constexpr std::string_view kTextMethods[] = {"strip",      "lstrip",   "rstrip",  "split", "rsplit",
                                             "startswith", "endswith", "replace", "join"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kFilters[] = {"trim",    "tojson", "length", "count",
                                         "default", "d",      "join",   "first",
                                         "last",    "string", "list",   "replace"};
constexpr std::string_view kTests[] = {"defined", "undefined", "none",     "string",
                                       "number",  "integer",   "boolean",  "true",
                                       "false",   "mapping",   "sequence", "iterable"};
constexpr std::string_view kPythonMethods[] = {"clear",      "copy",   "fromkeys", "get",
                                               "items",      "keys",   "pop",      "popitem",
                                               "setdefault", "update", "values"};

// The arguments of one call by parameter, nullptr where absent.
// Unimplemented if there are more, or others, than `parameters` names.
StatusOr<std::vector<const Value*>> Bind(const std::string& callee, const CallArguments& arguments,
                                         const std::vector<std::string>& parameters) {
  if (arguments.by_place.size() > parameters.size()) {
    return Unimplemented("%s with %d arguments", callee, arguments.by_place.size());
  }
  std::vector<const Value*> bound(parameters.size(), nullptr);
  for (size_t i = 0; i < arguments.by_place.size(); ++i) bound[i] = &arguments.by_place[i];
  for (const auto& [keyword, value] : arguments.by_name) {
    const auto at = std::find(parameters.begin(), parameters.end(), keyword) - parameters.begin();
    if (at == static_cast<ptrdiff_t>(parameters.size()))
      return Unimplemented("%s with argument %s", callee, keyword);
    if (bound[at] != nullptr)
      return InvalidArgument("%s: argument %s given twice", callee, keyword);
    bound[at] = &value;
  }
  return bound;
}

StatusOr<const std::string*> TextArgument(const std::string& callee, const Value* value) {
  if (value == nullptr) return InvalidArgument("%s: an argument is missing", callee);
  if (value->string() == nullptr)
    return InvalidArgument("%s: expected a string, found %s", callee, value->TypeName());
  return value->string();
}

Status CheckSize(size_t bytes) {
  if (bytes <= kMaxTextBytes) return absl::OkStatus();
  return InvalidArgument("a text of more than %d bytes", kMaxTextBytes);
}

Status CheckItems(size_t items) {
  if (items <= kMaxItems) return absl::OkStatus();
  return InvalidArgument("a list of more than %d items", kMaxItems);
}

StatusOr<Value> Strip(const std::string& text, const std::string& name,
                      const CallArguments& arguments) {
  ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"chars"}));
  const std::string* set = nullptr;
  if (bound[0] != nullptr && !bound[0]->is_none()) {
    ATL_ASSIGN_OR_RETURN(set, TextArgument(name, bound[0]));
  }
  std::string_view rest = text;
  if (name != "rstrip") rest = StripLeft(rest, set);
  if (name != "lstrip") rest = StripRight(rest, set);
  return Value(std::string(rest));
}

// str.split and str.rsplit at `separator`, `limit` times at most.
StatusOr<Value> SplitAt(std::string_view text, const std::string& separator, int64_t limit,
                        bool from_right) {
  List parts;
  for (; limit > 0; --limit) {
    ATL_RETURN_IF_ERROR(CheckItems(parts.size()));
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    const size_t behind = at + separator.size();
    parts.emplace_back(std::string(from_right ? text.substr(behind) : text.substr(0, at)));
    text = from_right ? text.substr(0, at) : text.substr(behind);
  }
  parts.emplace_back(std::string(text));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return Value(std::move(parts));
}

StatusOr<Value> Split(const std::string& text, const std::string& name,
                      const CallArguments& arguments) {
  ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"sep", "maxsplit"}));
  int64_t limit = -1;
  if (bound[1] != nullptr) {
    if (!bound[1]->is_integer()) return InvalidArgument("%s: maxsplit is no integer", name);
    limit = bound[1]->integer();
  }
  if (limit < 0) limit = std::numeric_limits<int64_t>::max();
  if (bound[0] != nullptr && !bound[0]->is_none()) {
    ATL_ASSIGN_OR_RETURN(const std::string* separator, TextArgument(name, bound[0]));
    if (separator->empty()) return InvalidArgument("%s: empty separator", name);
    return SplitAt(text, *separator, limit, name == "rsplit");
  }
  if (bound[1] != nullptr || name == "rsplit")
    return Unimplemented("%s at white space with a limit", name);
  List parts;
  for (std::string_view rest = StripLeft(text); !rest.empty(); rest = StripLeft(rest)) {
    size_t end = 0;
    while (end < rest.size() && !IsPythonSpace(CodePointAt(rest, end).value))
      end += CodePointAt(rest, end).length;
    ATL_RETURN_IF_ERROR(CheckItems(parts.size()));
    parts.emplace_back(std::string(rest.substr(0, end)));
    rest.remove_prefix(end);
  }
  return Value(std::move(parts));
}

StatusOr<Value> Replace(const std::string& text, const std::string& name,
                        const CallArguments& arguments) {
  ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"old", "new"}));
  ATL_ASSIGN_OR_RETURN(const std::string* from, TextArgument(name, bound[0]));
  ATL_ASSIGN_OR_RETURN(const std::string* to, TextArgument(name, bound[1]));
  if (from->empty()) return Unimplemented("replace of an empty text");
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(*from); at != std::string::npos; at = text.find(*from, done)) {
    out.append(text, done, at - done).append(*to);
    done = at + from->size();
    ATL_RETURN_IF_ERROR(CheckSize(out.size()));
  }
  out.append(text, done);
  ATL_RETURN_IF_ERROR(CheckSize(out.size()));
  return Value(std::move(out));
}

// `convert`: items that are no strings are printed (the filter) instead of refused (the method).
StatusOr<Value> Join(const std::string& separator, const Value& items, bool convert) {
  ATL_ASSIGN_OR_RETURN(const Value list, ListOf(items));
  std::string out;
  bool first = true;
  for (const Value& item : *list.list()) {
    if (!first) out += separator;
    first = false;
    if (!convert && item.string() == nullptr)
      return InvalidArgument("join: found %s among the items", item.TypeName());
    ATL_ASSIGN_OR_RETURN(const std::string text, ToText(item));
    out += text;
    ATL_RETURN_IF_ERROR(CheckSize(out.size()));
  }
  return Value(std::move(out));
}

StatusOr<Value> CallTextMethod(const std::string& text, const std::string& name,
                               const CallArguments& arguments) {
  if (name == "split" || name == "rsplit") return Split(text, name, arguments);
  if (name == "replace") return Replace(text, name, arguments);
  if (name == "join") {
    ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"iterable"}));
    if (bound[0] == nullptr) return InvalidArgument("join: an argument is missing");
    return Join(text, *bound[0], /*convert=*/false);
  }
  if (name == "startswith" || name == "endswith") {
    ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"prefix"}));
    ATL_ASSIGN_OR_RETURN(const std::string* part, TextArgument(name, bound[0]));
    if (part->size() > text.size()) return Value(false);
    const size_t at = name == "startswith" ? 0 : text.size() - part->size();
    return Value(text.compare(at, part->size(), *part) == 0);
  }
  return Strip(text, name, arguments);
}

StatusOr<Value> CallDictMethod(const Dict& dict, const std::string& name,
                               const CallArguments& arguments) {
  if (name == "get") {
    ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"key", "default"}));
    ATL_ASSIGN_OR_RETURN(const std::string* key, TextArgument(name, bound[0]));
    const Value* value = Find(dict, *key);
    if (value != nullptr) return *value;
    return bound[1] == nullptr ? Value() : *bound[1];
  }
  ATL_RETURN_IF_ERROR(Bind(name, arguments, {}).status());
  List list;
  for (const auto& [key, value] : dict) {
    if (name == "keys") list.emplace_back(key);
    if (name == "values") list.push_back(value);
    if (name == "items") list.emplace_back(List{Value(key), value});
  }
  return Value(std::move(list));
}

StatusOr<Value> Range(const CallArguments& arguments) {
  ATL_ASSIGN_OR_RETURN(const auto bound, Bind("range", arguments, {"start", "stop", "step"}));
  int64_t numbers[3] = {0, 0, 1};
  for (int i = 0; i < 3; ++i) {
    if (bound[i] == nullptr) continue;
    if (!bound[i]->is_integer()) return InvalidArgument("range: found %s", bound[i]->TypeName());
    numbers[i] = bound[i]->integer();
  }
  if (bound[0] == nullptr) return InvalidArgument("range: an argument is missing");
  if (bound[1] == nullptr) std::swap(numbers[0], numbers[1]);
  const auto [start, stop, step] = numbers;
  if (step == 0) return InvalidArgument("range: step is 0");
  List list;
  for (__int128 i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (static_cast<int64_t>(list.size()) == kMaxRange)
      return InvalidArgument("range: more than %d numbers", kMaxRange);
    list.emplace_back(static_cast<int64_t>(i));
  }
  return Value(std::move(list));
}

StatusOr<Value> Json(const Value& input, const CallArguments& arguments) {
  ATL_ASSIGN_OR_RETURN(const auto bound, Bind("tojson", arguments, {"ensure_ascii", "indent"}));
  if (bound[0] != nullptr && bound[0]->Truth()) return Unimplemented("tojson with ensure_ascii");
  int64_t indent = -1;
  if (bound[1] != nullptr && !bound[1]->is_none()) {
    if (!bound[1]->is_integer() || bound[1]->integer() < 0 || bound[1]->integer() > 16) {
      return Unimplemented("tojson: indent must be 0 to 16");
    }
    indent = bound[1]->integer();
  }
  ATL_ASSIGN_OR_RETURN(std::string text, ToJson(input, static_cast<int>(indent)));
  ATL_RETURN_IF_ERROR(CheckSize(text.size()));
  return Value(std::move(text));
}

StatusOr<Value> Length(const Value& input) {
  if (input.is_undefined()) return Value(int64_t{0});
  if (input.dict() != nullptr) return Value(static_cast<int64_t>(input.dict()->size()));
  if (input.list() != nullptr) return Value(static_cast<int64_t>(input.list()->size()));
  if (input.loop() != nullptr) return Unimplemented("length of loop");
  if (input.string() == nullptr) return InvalidArgument("length: found %s", input.TypeName());
  const auto is_start = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return Value(static_cast<int64_t>(
      std::count_if(input.string()->begin(), input.string()->end(), is_start)));
}

}  // namespace

bool IsFunction(std::string_view name) { return IsOneOf(name, kFunctions); }
bool IsMethod(std::string_view name) {
  return IsOneOf(name, kTextMethods) || IsOneOf(name, kDictMethods);
}
bool IsFilter(std::string_view name) { return IsOneOf(name, kFilters); }
bool IsTest(std::string_view name) { return IsOneOf(name, kTests); }
bool IsPythonMethod(std::string_view name) { return IsOneOf(name, kPythonMethods); }

StatusOr<Value> CallFunction(const std::string& name, const CallArguments& arguments) {
  if (name == "range") return Range(arguments);
  if (name == "raise_exception") {
    ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"message"}));
    if (bound[0] == nullptr) return InvalidArgument("raise_exception: an argument is missing");
    ATL_ASSIGN_OR_RETURN(const std::string message, ToText(*bound[0]));
    return InvalidArgument("%s", message);
  }
  if (!arguments.by_place.empty()) return Unimplemented("namespace with arguments by place");
  auto result = std::make_shared<Namespace>();
  result->fields = arguments.by_name;
  return Value(std::move(result));
}

StatusOr<Value> CallMethod(const Value& object, const std::string& name,
                           const CallArguments& arguments) {
  if (object.is_undefined()) return InvalidArgument("%s is undefined", object.UndefinedName());
  if (object.string() != nullptr && IsOneOf(name, kTextMethods))
    return CallTextMethod(*object.string(), name, arguments);
  if (object.dict() != nullptr && IsOneOf(name, kDictMethods))
    return CallDictMethod(*object.dict(), name, arguments);
  return InvalidArgument("a %s has no method %s", object.TypeName(), name);
}

StatusOr<Value> ApplyFilter(const Value& input, const std::string& name,
                            const CallArguments& arguments) {
  if (name == "tojson") return Json(input, arguments);
  if (name == "default" || name == "d") {
    ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"default_value", "boolean"}));
    const bool if_false = bound[1] != nullptr && bound[1]->Truth();
    if (!input.is_undefined() && !(if_false && !input.Truth())) return input;
    return bound[0] == nullptr ? Value(std::string()) : *bound[0];
  }
  if (name == "join") {
    ATL_ASSIGN_OR_RETURN(const auto bound, Bind(name, arguments, {"d"}));
    std::string separator;
    if (bound[0] != nullptr) {
      ATL_ASSIGN_OR_RETURN(separator, ToText(*bound[0]));
    }
    return Join(separator, input, /*convert=*/true);
  }
  if (name == "trim" || name == "replace") {
    ATL_ASSIGN_OR_RETURN(const std::string text, ToText(input));
    return name == "trim" ? Strip(text, "strip", arguments) : Replace(text, name, arguments);
  }
  ATL_RETURN_IF_ERROR(Bind(name, arguments, {}).status());
  if (name == "length" || name == "count") return Length(input);
  if (name == "string") {
    ATL_ASSIGN_OR_RETURN(std::string text, ToText(input));
    return Value(std::move(text));
  }
  ATL_ASSIGN_OR_RETURN(const Value list, ListOf(input));
  if (name == "list") return list;
  if (list.list()->empty())
    return Value::MakeUndefined("the " + name + " item of an empty sequence");
  return name == "first" ? list.list()->front() : list.list()->back();
}

StatusOr<bool> ApplyTest(const Value& value, const std::string& name,
                         const CallArguments& arguments) {
  ATL_RETURN_IF_ERROR(Bind("test " + name, arguments, {}).status());
  const bool is_sequence =
      value.string() != nullptr || value.list() != nullptr || value.dict() != nullptr;
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "string") return value.string() != nullptr;
  if (name == "number") return value.is_integer();
  if (name == "integer") return value.is_integer() && !value.is_bool();
  if (name == "boolean") return value.is_bool();
  if (name == "true") return value.is_bool() && value.Truth();
  if (name == "false") return value.is_bool() && !value.Truth();
  if (name == "mapping") return value.dict() != nullptr;
  // An undefined value can be gone through and has a length.
  if (value.loop() != nullptr) return Unimplemented("test %s of loop", name);
  return is_sequence || value.is_undefined();
}

StatusOr<Value> ListOf(const Value& value) {
  if (value.list() != nullptr) return value;
  if (value.loop() != nullptr) return Unimplemented("going through loop");
  List list;
  if (value.dict() != nullptr) {
    for (const auto& [key, item] : *value.dict()) list.emplace_back(key);
  } else if (value.string() != nullptr) {
    const std::string& text = *value.string();
    for (size_t pos = 0; pos < text.size();) {
      const int length = CodePointAt(text, pos).length;
      ATL_RETURN_IF_ERROR(CheckItems(list.size()));
      list.emplace_back(text.substr(pos, length));
      pos += length;
    }
  } else if (!value.is_undefined()) {
    return InvalidArgument("cannot go through a %s", value.TypeName());
  }
  return Value(std::move(list));
}

}  // namespace atl::text::jinja
