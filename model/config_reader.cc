#include "model/config_reader.h"

#include <cmath>
#include <utility>

#include "model/json.h"

namespace atl::model {

FieldReader::FieldReader(const nlohmann::json& object, std::string where)
    : object_(object), where_(std::move(where)) {}

const nlohmann::json* FieldReader::Find(const std::string& name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool FieldReader::Has(const std::string& name) const { return Find(name) != nullptr; }

void FieldReader::RequireKey(const std::string& name, const std::string& meaning) {
  if (object_.contains(name)) return;
  Fail(InvalidArgument("%s: '%s' is missing: expected a number, or null for %s", where_, name,
                       meaning));
}

int64_t FieldReader::RequiredInt(const std::string& name, int64_t min, int64_t max) {
  const nlohmann::json* value = Find(name);
  if (value != nullptr) return CheckedInt(name, *value, min, max);
  Fail(InvalidArgument("%s: '%s' is missing: expected an integer from %d to %d", where_, name, min,
                       max));
  return min;
}

int64_t FieldReader::Int(const std::string& name, int64_t fallback, int64_t min, int64_t max) {
  return MaybeInt(name, min, max).value_or(fallback);
}

std::optional<int64_t> FieldReader::MaybeInt(const std::string& name, int64_t min, int64_t max) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  return CheckedInt(name, *value, min, max);
}

int64_t FieldReader::CheckedInt(const std::string& name, const nlohmann::json& value, int64_t min,
                                int64_t max) {
  if (!value.is_number_integer()) {
    WrongType(name, "an integer", value);
    return min;
  }
  // Above int64 the library keeps an unsigned number: compare before converting.
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = too_large ? INT64_MAX : value.get<int64_t>();
  if (too_large || number < min || number > max) {
    Fail(InvalidArgument("%s: '%s' is %s: expected an integer from %d to %d", where_, name,
                         value.dump(), min, max));
    return min;
  }
  return number;
}

double FieldReader::Double(const std::string& name, double fallback, double min, double max) {
  return MaybeDouble(name, min, max).value_or(fallback);
}

std::optional<double> FieldReader::MaybeDouble(const std::string& name, double min, double max) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    WrongType(name, "a number", *value);
    return min;
  }
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) {
    Fail(InvalidArgument("%s: '%s' is %s: expected a number from %g to %g", where_, name,
                         value->dump(), min, max));
    return min;
  }
  return number;
}

bool FieldReader::Bool(const std::string& name, bool fallback) {
  return MaybeBool(name).value_or(fallback);
}

std::optional<bool> FieldReader::MaybeBool(const std::string& name) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    WrongType(name, "true or false", *value);
    return false;
  }
  return value->get<bool>();
}

std::string FieldReader::String(const std::string& name, const std::string& fallback) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return fallback;
  if (!value->is_string()) {
    WrongType(name, "a string", *value);
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<int64_t> FieldReader::Ints(const std::string& name, int64_t min, int64_t max) {
  std::vector<int64_t> numbers;
  const nlohmann::json* value = Find(name);
  if (value == nullptr) return numbers;
  if (!value->is_array()) return {CheckedInt(name, *value, min, max)};
  for (const nlohmann::json& item : *value) numbers.push_back(CheckedInt(name, item, min, max));
  return numbers;
}

void FieldReader::Fail(Status error) {
  if (status_.ok()) status_ = std::move(error);
}

void FieldReader::Contradiction(const std::string& text) {
  Fail(InvalidArgument("%s: %s", where_, text));
}

void FieldReader::Unsupported(const std::string& name, const std::string& found,
                              const std::string& expected) {
  Fail(Unimplemented("%s: %s '%s' is not supported: expected %s", where_, name, found, expected));
}

void FieldReader::WrongType(const std::string& name, const std::string& expected,
                            const nlohmann::json& value) {
  Fail(InvalidArgument("%s: '%s' is %s: expected %s", where_, name, JsonTypeName(value), expected));
}

}  // namespace atl::model
