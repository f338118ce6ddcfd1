#include "text/jinja_value.h"

#include <algorithm>

#include "text/char_set.h"
#include "text/utf8.h"

namespace atl::text::jinja {
namespace {

constexpr int64_t kMaxWeight = int64_t{1} << 60;  // sums stop here

void AppendJsonString(const std::string& text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      case '\b':
        out->append("\\b");
        break;
      case '\f':
        out->append("\\f");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out->append(absl::StrFormat("\\u%04x", static_cast<int>(c)));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

// `level`: how deep inside the value; a line break and indentation go before each member if indent
// >= 0.
Status AppendJson(const Value& value, int indent, int level, std::string* out) {
  const auto line_break = [&](int at) {
    if (indent >= 0) out->append("\n").append(static_cast<size_t>(indent) * at, ' ');
  };
  const char* separator = indent >= 0 ? "," : ", ";
  if (value.is_none()) {
    out->append("null");
  } else if (value.is_bool()) {
    out->append(value.Truth() ? "true" : "false");
  } else if (value.is_integer()) {
    out->append(std::to_string(value.integer()));
  } else if (value.string() != nullptr) {
    AppendJsonString(*value.string(), out);
  } else if (const List* list = value.list()) {
    out->push_back('[');
    for (size_t i = 0; i < list->size(); ++i) {
      if (i > 0) out->append(separator);
      line_break(level + 1);
      ATL_RETURN_IF_ERROR(AppendJson((*list)[i], indent, level + 1, out));
    }
    if (!list->empty()) line_break(level);
    out->push_back(']');
  } else if (const Dict* dict = value.dict()) {
    out->push_back('{');
    for (size_t i = 0; i < dict->size(); ++i) {
      if (i > 0) out->append(separator);
      line_break(level + 1);
      AppendJsonString((*dict)[i].first, out);
      out->append(": ");
      ATL_RETURN_IF_ERROR(AppendJson((*dict)[i].second, indent, level + 1, out));
    }
    if (!dict->empty()) line_break(level);
    out->push_back('}');
  } else {
    return InvalidArgument("tojson: cannot write %s", value.TypeName());
  }
  return absl::OkStatus();
}

bool InSet(char32_t c, const std::string* set) {
  if (set == nullptr) return IsPythonSpace(c);
  for (size_t pos = 0; pos < set->size();) {
    const CodePoint member = CodePointAt(*set, pos);
    if (member.value == c) return true;
    pos += member.length;
  }
  return false;
}

}  // namespace

Value::Value(std::string value) : weight_(1 + static_cast<int64_t>(value.size() / 8)) {
  data_ = std::make_shared<const std::string>(std::move(value));
}

void Value::Hold(const Value& item) {
  depth_ = std::max(depth_, item.depth_ + 1);
  weight_ = std::min(weight_ + item.weight_, kMaxWeight);
}

Value::Value(List value) : depth_(1) {
  for (const Value& item : value) Hold(item);
  data_ = std::make_shared<const List>(std::move(value));
}

Value::Value(Dict value) : depth_(1) {
  for (const auto& [key, item] : value) Hold(item);
  data_ = std::make_shared<const Dict>(std::move(value));
}

Value::Value(Loop value) : data_(std::move(value)) {
  depth_ = std::get<Loop>(data_).items_depth + 1;
}

Value Value::MakeUndefined(std::string name) {
  Value value;
  value.data_ = Undefined{std::make_shared<const std::string>(std::move(name))};
  return value;
}

std::shared_ptr<const List> Value::shared_list() const {
  const auto* pointer = std::get_if<std::shared_ptr<const List>>(&data_);
  return pointer == nullptr ? nullptr : *pointer;
}

Namespace* Value::name_space() const {
  const auto* pointer = std::get_if<std::shared_ptr<Namespace>>(&data_);
  return pointer == nullptr ? nullptr : pointer->get();
}

int64_t Value::integer() const {
  return is_bool() ? std::get<bool>(data_) : std::get<int64_t>(data_);
}

bool Value::Truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_integer()) return integer() != 0;
  if (string() != nullptr) return !string()->empty();
  if (list() != nullptr) return !list()->empty();
  if (dict() != nullptr) return !dict()->empty();
  return true;
}

std::string Value::TypeName() const {
  static constexpr const char* kNames[] = {"undefined", "none", "bool",      "integer", "string",
                                           "list",      "dict", "namespace", "loop"};
  return kNames[data_.index()];
}

std::string Value::UndefinedName() const { return *std::get<Undefined>(data_).name; }

const Value* Find(const Dict& dict, std::string_view key) {
  for (const auto& [name, value] : dict) {
    if (name == key) return &value;
  }
  return nullptr;
}

bool Equal(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
  if (a.TypeName() != b.TypeName()) return false;
  if (a.string() != nullptr) return *a.string() == *b.string();
  if (a.list() != nullptr) {
    if (a.list()->size() != b.list()->size()) return false;
    for (size_t i = 0; i < a.list()->size(); ++i) {
      if (!Equal((*a.list())[i], (*b.list())[i])) return false;
    }
    return true;
  }
  if (a.dict() != nullptr) {
    if (a.dict()->size() != b.dict()->size()) return false;
    for (const auto& [key, value] : *a.dict()) {
      const Value* other = Find(*b.dict(), key);
      if (other == nullptr || !Equal(value, *other)) return false;
    }
    return true;
  }
  if (a.name_space() != nullptr) return a.name_space() == b.name_space();
  return a.is_none() || a.is_undefined();
}

StatusOr<std::string> ToText(const Value& value) {
  if (value.string() != nullptr) return *value.string();
  if (value.is_undefined()) return std::string();
  if (value.is_none()) return std::string("None");
  if (value.is_bool()) return std::string(value.Truth() ? "True" : "False");
  if (value.is_integer()) return std::to_string(value.integer());
  return Unimplemented("printing a %s", value.TypeName());
}

StatusOr<std::string> ToJson(const Value& value, int indent) {
  std::string out;
  ATL_RETURN_IF_ERROR(AppendJson(value, indent, 0, &out));
  return out;
}

bool IsPythonSpace(char32_t c) {
  return (c >= 0x1C && c <= 0x1F) || (UnicodeClasses()[c] & kSpace);
}

std::string_view StripLeft(std::string_view text, const std::string* set) {
  size_t pos = 0;
  while (pos < text.size()) {
    const CodePoint c = CodePointAt(text, pos);
    if (!InSet(c.value, set)) break;
    pos += c.length;
  }
  return text.substr(pos);
}

std::string_view StripRight(std::string_view text, const std::string* set) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = PreviousStart(text, end);
    if (!InSet(CodePointAt(text, start).value, set)) break;
    end = start;
  }
  return text.substr(0, end);
}

}  // namespace atl::text::jinja
