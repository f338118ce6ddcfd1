#include "model/tokenizer_files.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/file.h"
#include "model/json.h"

namespace atl::model {
namespace {

using Json = nlohmann::json;

constexpr int64_t kVocabUnit = 16;                       // a panel of kernels/packed_matrix.h
constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;  // as config.json's limit
constexpr char kTokenizer[] = "tokenizer.json";
constexpr char kTokenizerConfig[] = "tokenizer_config.json";

using Vocabulary = std::map<std::string, int64_t>;

Status AddToken(const std::string& path, const std::string& text, const Json& id,
                Vocabulary& vocabulary) {
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxTokenId) {
    return InvalidArgument("%s: token '%s' has id %s, expected an integer from 0 to %d", path, text,
                           id.dump(), kMaxTokenId);
  }
  vocabulary[text] = id.get<int64_t>();
  return absl::OkStatus();
}

StatusOr<Vocabulary> ReadVocabulary(const std::string& path) {
  ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  ATL_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, path));
  const auto model = json.find("model");
  if (model == json.end() || !model->is_object() || !model->contains("vocab") ||
      !(*model)["vocab"].is_object()) {
    return InvalidArgument("%s: 'model' has no object 'vocab'", path);
  }
  Vocabulary vocabulary;
  for (const auto& [token, id] : (*model)["vocab"].items()) {
    ATL_RETURN_IF_ERROR(AddToken(path, token, id, vocabulary));
  }
  const auto added = json.find("added_tokens");
  if (added == json.end()) return vocabulary;
  for (const Json& token : *added) {
    if (!token.is_object() || !token.contains("content") || !token["content"].is_string() ||
        !token.contains("id")) {
      return InvalidArgument("%s: 'added_tokens' holds %s, expected objects with id and content",
                             path, JsonTypeName(token));
    }
    ATL_RETURN_IF_ERROR(
        AddToken(path, token["content"].get<std::string>(), token["id"], vocabulary));
  }
  return vocabulary;
}

// The id of config[key], which is a token's text or an object with it; empty if there is none.
StatusOr<std::optional<uint32_t>> SpecialToken(const Json& config, const std::string& key,
                                               const Vocabulary& vocabulary,
                                               const std::string& path) {
  const auto value = config.find(key);
  if (value == config.end() || value->is_null()) return std::nullopt;
  const Json text = value->is_object() ? value->value("content", Json()) : *value;
  if (!text.is_string()) return InvalidArgument("%s: '%s' is no token", path, key);
  const auto token = vocabulary.find(text.get<std::string>());
  if (token == vocabulary.end()) {
    return InvalidArgument("%s: %s '%s' is no token of %s", path, key, text.get<std::string>(),
                           kTokenizer);
  }
  return static_cast<uint32_t>(token->second);
}

}  // namespace

StatusOr<std::vector<std::string>> TokenizerFiles(const std::string& dir) {
  if (!FileExists(dir + "/" + kTokenizer)) return NotFound("%s has no %s", dir, kTokenizer);
  std::vector<std::string> names;
  for (const char* name :
       {kTokenizer, kTokenizerConfig, "special_tokens_map.json", "chat_template.jinja"}) {
    if (FileExists(dir + "/" + name)) names.push_back(name);
  }
  return names;
}

Status FitConfigToTokenizer(const std::string& dir, ModelConfig* config) {
  const std::string config_path = dir + "/" + kTokenizerConfig;
  ATL_ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(dir + "/" + kTokenizer));
  int64_t ids = 1;
  for (const auto& [token, id] : vocabulary) ids = std::max(ids, id + 1);
  config->vocab_size = (ids + kVocabUnit - 1) / kVocabUnit * kVocabUnit;
  config->bos_token_id.reset();
  config->eos_token_ids.clear();
  if (!FileExists(config_path)) return absl::OkStatus();
  ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(config_path));
  ATL_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, config_path));
  ATL_ASSIGN_OR_RETURN(config->bos_token_id,
                       SpecialToken(json, "bos_token", vocabulary, config_path));
  ATL_ASSIGN_OR_RETURN(const std::optional<uint32_t> eos,
                       SpecialToken(json, "eos_token", vocabulary, config_path));
  if (eos) config->eos_token_ids.push_back(*eos);
  return absl::OkStatus();
}

}  // namespace atl::model
