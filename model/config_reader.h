// Fields of one JSON object, read by name with type and range; the first mistake is kept.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::model {

// Each getter gives the field's value, or its fallback when the field is absent or null, or (after
// a mistake) any value: look at status() before using what was read. Thread-compatible.
class FieldReader {
 public:
  // `object` must outlive the reader; `where` names it in errors ("DIR/config.json").
  FieldReader(const nlohmann::json& object, std::string where);

  bool Has(const std::string& name) const;  // there and not null
  // Refuses silence where null has a meaning of its own (`meaning`) and no default is safe.
  void RequireKey(const std::string& name, const std::string& meaning);

  int64_t RequiredInt(const std::string& name, int64_t min, int64_t max);
  int64_t Int(const std::string& name, int64_t fallback, int64_t min, int64_t max);
  double Double(const std::string& name, double fallback, double min, double max);
  bool Bool(const std::string& name, bool fallback);
  std::string String(const std::string& name, const std::string& fallback);
  std::optional<int64_t> MaybeInt(const std::string& name, int64_t min, int64_t max);
  std::optional<double> MaybeDouble(const std::string& name, double min, double max);
  std::optional<bool> MaybeBool(const std::string& name);
  // An integer or a list of integers; empty when absent or null.
  std::vector<int64_t> Ints(const std::string& name, int64_t min, int64_t max);

  // Keeps `error` if it is the first.
  void Fail(Status error);
  // InvalidArgument "where: text".
  void Contradiction(const std::string& text);
  // Unimplemented "where: NAME 'FOUND' is not supported: expected EXPECTED".
  void Unsupported(const std::string& name, const std::string& found, const std::string& expected);

  const Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json* Find(const std::string& name) const;  // null when absent or null
  int64_t CheckedInt(const std::string& name, const nlohmann::json& value, int64_t min,
                     int64_t max);
  void WrongType(const std::string& name, const std::string& expected, const nlohmann::json& value);

  const nlohmann::json& object_;
  const std::string where_;
  Status status_;
};

}  // namespace atl::model
