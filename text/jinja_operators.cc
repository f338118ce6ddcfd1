#include "text/jinja_operators.h"

#include <algorithm>
#include <limits>

#include "text/jinja_builtins.h"
#include "text/utf8.h"

namespace atl::text::jinja {
namespace {

Status TypeError(const std::string& op, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (value->is_undefined()) return InvalidArgument("%s is undefined", value->UndefinedName());
    if (value->loop() != nullptr) return Unimplemented("operator %s on loop", op);
  }
  return InvalidArgument("operator %s between %s and %s", op, left.TypeName(), right.TypeName());
}

StatusOr<Value> IntegerArithmetic(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") overflow = __builtin_add_overflow(a, b, &result);
  if (op == "-") overflow = __builtin_sub_overflow(a, b, &result);
  if (op == "*") overflow = __builtin_mul_overflow(a, b, &result);
  if (op == "//" || op == "%") {
    if (b == 0) return InvalidArgument("division by zero");
    if (b == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      // Python rounds down; the remainder has the divisor's sign.
      const int64_t remainder = a % b + (a % b != 0 && (a % b < 0) != (b < 0) ? b : 0);
      result = op == "%" ? remainder : (a - remainder) / b;
    }
  }
  if (overflow) return InvalidArgument("%d %s %d: beyond 64 bits", a, op, b);
  return Value(result);
}

// A text or list of this many parts may be made.
Status CheckTextSize(size_t bytes) {
  return bytes <= kMaxTextBytes ? absl::OkStatus()
                                : InvalidArgument("a text of more than %d bytes", kMaxTextBytes);
}

StatusOr<Value> Concatenate(const std::string& left, const std::string& right) {
  ATL_RETURN_IF_ERROR(CheckTextSize(left.size() + right.size()));
  return Value(left + right);
}

StatusOr<Value> Repeat(const std::string& text, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (!text.empty())
    ATL_RETURN_IF_ERROR(
        CheckTextSize(static_cast<size_t>(times) > kMaxTextBytes ? times : text.size() * times));
  std::string out;
  for (; !text.empty() && times > 0; --times) out += text;
  return Value(std::move(out));
}

StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.string() != nullptr) {
    if (item.string() == nullptr) return TypeError("in", item, container);
    return container.string()->find(*item.string()) != std::string::npos;
  }
  if (container.list() != nullptr) {
    const auto equal = [&](const Value& member) { return Equal(member, item); };
    return std::any_of(container.list()->begin(), container.list()->end(), equal);
  }
  if (container.dict() != nullptr) {
    if (item.list() != nullptr || item.dict() != nullptr)
      return TypeError("in", item, container);  // no key can be one
    return item.string() != nullptr && Find(*container.dict(), *item.string()) != nullptr;
  }
  if (container.is_undefined()) return false;
  return TypeError("in", item, container);
}

StatusOr<Value> LoopAttribute(const Loop& loop, const std::string& name) {
  const auto i = static_cast<int64_t>(loop.index0),
             length = static_cast<int64_t>(loop.items->size());
  if (name == "index0") return Value(i);
  if (name == "index") return Value(i + 1);
  if (name == "revindex0") return Value(length - 1 - i);
  if (name == "revindex") return Value(length - i);
  if (name == "first") return Value(i == 0);
  if (name == "last") return Value(i + 1 == length);
  if (name == "length") return Value(length);
  if (name == "previtem")
    return i > 0 ? (*loop.items)[i - 1] : Value::MakeUndefined("loop.previtem");
  if (name == "nextitem")
    return i + 1 < length ? (*loop.items)[i + 1] : Value::MakeUndefined("loop.nextitem");
  return Unimplemented("loop.%s", name);
}

// Where the code points of `text` begin, and its end.
std::vector<size_t> Starts(const std::string& text) {
  std::vector<size_t> starts;
  for (size_t pos = 0; pos < text.size(); pos += CodePointAt(text, pos).length)
    starts.push_back(pos);
  starts.push_back(text.size());
  return starts;
}

// Python's slice.indices: the places that start:stop:step takes of `length`.
StatusOr<std::vector<size_t>> SlicePlaces(int64_t length, const Value* start, const Value* stop,
                                          const Value* step) {
  for (const Value* bound : {start, stop, step}) {
    if (bound != nullptr && !bound->is_none() && !bound->is_integer()) {
      return InvalidArgument("a slice's bound is a %s", bound->TypeName());
    }
  }
  const auto given = [](const Value* bound) { return bound != nullptr && !bound->is_none(); };
  int64_t by = given(step) ? step->integer() : 1;
  if (by == 0) return InvalidArgument("a slice's step is 0");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? length : length - 1;
  const auto place = [&](const Value* bound, int64_t missing) {
    if (!given(bound)) return missing;
    const int64_t at =
        bound->integer() < 0 ? std::max(bound->integer(), -length - 1) + length : bound->integer();
    return std::clamp(at, low, high);
  };
  const int64_t from = place(start, by > 0 ? low : high), to = place(stop, by > 0 ? high : low);
  by = std::clamp(by, -length - 1, length + 1);
  std::vector<size_t> places;
  for (int64_t at = from; by > 0 ? at < to : at > to; at += by)
    places.push_back(static_cast<size_t>(at));
  return places;
}

}  // namespace

StatusOr<Value> Arithmetic(const std::string& op, const Value& left, const Value& right) {
  if (op == "~") {
    ATL_ASSIGN_OR_RETURN(const std::string a, ToText(left));
    ATL_ASSIGN_OR_RETURN(const std::string b, ToText(right));
    return Concatenate(a, b);
  }
  if (left.is_integer() && right.is_integer())
    return IntegerArithmetic(op, left.integer(), right.integer());
  if (op == "+" && left.string() != nullptr && right.string() != nullptr) {
    return Concatenate(*left.string(), *right.string());
  }
  if (op == "+" && left.list() != nullptr && right.list() != nullptr) {
    if (left.list()->size() + right.list()->size() > kMaxItems)
      return InvalidArgument("a list of more than %d items", kMaxItems);
    List list = *left.list();
    list.insert(list.end(), right.list()->begin(), right.list()->end());
    return Value(std::move(list));
  }
  if (op == "*" && left.string() != nullptr && right.is_integer())
    return Repeat(*left.string(), right.integer());
  if (op == "*" && left.is_integer() && right.string() != nullptr)
    return Repeat(*right.string(), left.integer());
  if (op == "*" && (left.list() != nullptr || right.list() != nullptr))
    return Unimplemented("operator * on a list");
  if (op == "%" && left.string() != nullptr) return Unimplemented("operator %% on a string");
  return TypeError(op, left, right);
}

StatusOr<bool> Compare(const std::string& op, const Value& left, const Value& right) {
  if (op == "==") return Equal(left, right);
  if (op == "!=") return !Equal(left, right);
  if (op == "in") return Contains(right, left);
  if (op == "not in") {
    ATL_ASSIGN_OR_RETURN(const bool found, Contains(right, left));
    return !found;
  }
  int order = 0;
  if (left.is_integer() && right.is_integer()) {
    order = left.integer() < right.integer() ? -1 : left.integer() > right.integer();
  } else if (left.string() != nullptr && right.string() != nullptr) {
    order =
        left.string()->compare(*right.string());  // the order of UTF-8 bytes is that of code points
  } else if (left.list() != nullptr && right.list() != nullptr) {
    return Unimplemented("operator %s on lists", op);
  } else {
    return TypeError(op, left, right);
  }
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  return op == ">" ? order > 0 : order >= 0;
}

StatusOr<Value> GetAttribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) return InvalidArgument("%s is undefined", object.UndefinedName());
  if (object.loop() != nullptr) return LoopAttribute(*object.loop(), name);
  const Value* found = nullptr;
  if (object.dict() != nullptr) found = Find(*object.dict(), name);
  if (object.name_space() != nullptr) found = Find(object.name_space()->fields, name);
  return found != nullptr ? *found
                          : Value::MakeUndefined("'" + name + "' of a " + object.TypeName());
}

StatusOr<Value> GetItem(const Value& object, const Value& key) {
  if (key.string() != nullptr) return GetAttribute(object, *key.string());
  if (object.is_undefined()) return InvalidArgument("%s is undefined", object.UndefinedName());
  const auto missing = [&] { return Value::MakeUndefined("an item of a " + object.TypeName()); };
  if (!key.is_integer() || (object.list() == nullptr && object.string() == nullptr))
    return missing();
  int64_t at = key.integer();
  if (object.list() != nullptr) {
    const auto size = static_cast<int64_t>(object.list()->size());
    if (at < 0) at += size;
    return at >= 0 && at < size ? (*object.list())[at] : missing();
  }
  const std::vector<size_t> starts = Starts(*object.string());
  const auto size = static_cast<int64_t>(starts.size()) - 1;
  if (at < 0) at += size;
  if (at < 0 || at >= size) return missing();
  return Value(object.string()->substr(starts[at], starts[at + 1] - starts[at]));
}

StatusOr<Value> GetSlice(const Value& object, const Value* start, const Value* stop,
                         const Value* step) {
  if (object.is_undefined()) return InvalidArgument("%s is undefined", object.UndefinedName());
  if (const List* list = object.list()) {
    ATL_ASSIGN_OR_RETURN(const auto places,
                         SlicePlaces(static_cast<int64_t>(list->size()), start, stop, step));
    List part;
    for (const size_t at : places) part.push_back((*list)[at]);
    return Value(std::move(part));
  }
  if (const std::string* text = object.string()) {
    const std::vector<size_t> starts = Starts(*text);
    ATL_ASSIGN_OR_RETURN(const auto places,
                         SlicePlaces(static_cast<int64_t>(starts.size()) - 1, start, stop, step));
    std::string part;
    for (const size_t at : places) part.append(*text, starts[at], starts[at + 1] - starts[at]);
    return Value(std::move(part));
  }
  return InvalidArgument("a slice of a %s", object.TypeName());
}

}  // namespace atl::text::jinja
