#include "model/json.h"

#include <set>
#include <vector>

namespace atl::model {
namespace {

constexpr int kMaxDepth = 32;

using Json = nlohmann::json;

// Watches a parse for what a DOM cannot show afterwards: keys given twice and depth.
class Watcher {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (depth > kMaxDepth) {
          problem_ = absl::StrFormat("nests deeper than %d", kMaxDepth);
          return false;  // and nothing of it is kept
        }
        if (keys_.size() <= static_cast<size_t>(depth)) keys_.resize(depth + 1);
        keys_[depth].clear();
        break;
      case Json::parse_event_t::key:
        // A key's depth is one below its object's. Keys inside what is not kept are seen as well.
        if (depth - 1 > kMaxDepth) return false;
        if (!keys_[depth - 1].insert(parsed.get<std::string>()).second) {
          problem_ = absl::StrFormat("key '%s' is given twice", parsed.get<std::string>());
        }
        break;
      default:
        break;
    }
    return true;
  }

  const std::string& problem() const { return problem_; }

 private:
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

// Where `text`, which is not JSON, stops being it: " at byte 17"; "" if the parser does not say.
std::string WrongPlace(const std::string& text) {
  try {
    Watcher watcher;
    const Json parsed = Json::parse(text, std::ref(watcher));
  } catch (const Json::parse_error& error) {
    return absl::StrFormat(" at byte %d", error.byte);
  } catch (const Json::exception&) {
    // a number too large, for one
  }
  return "";
}

}  // namespace

StatusOr<Json> ParseJsonObject(const std::string& text, const std::string& where) {
  Watcher watcher;
  Json value = Json::parse(text, std::ref(watcher), /*allow_exceptions=*/false);
  if (value.is_discarded())
    return InvalidArgument("%s is not valid JSON%s", where, WrongPlace(text));
  if (!watcher.problem().empty()) return InvalidArgument("%s: %s", where, watcher.problem());
  if (!value.is_object()) {
    return InvalidArgument("%s: expected a JSON object, found %s", where, JsonTypeName(value));
  }
  return value;
}

std::string JsonTypeName(const Json& value) {
  if (value.is_null()) return "null";
  const std::string type = value.type_name();
  return (type == "array" || type == "object" ? "an " : "a ") + type;
}

}  // namespace atl::model
