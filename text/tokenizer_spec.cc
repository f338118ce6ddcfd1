#include "text/tokenizer_spec.h"

#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_map.h"
#include "text/byte_level.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

using Json = nlohmann::json;

const Json kNull;

// The member `key`; null if it is absent or `object` is no object.
const Json& Member(const Json& object, const char* key) {
  if (!object.is_object()) return kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

// Member `type` of an object, "" if there is none.
std::string TypeOf(const Json& object) {
  const Json& type = Member(object, "type");
  return type.is_string() ? type.get<std::string>() : std::string();
}

// A short text for messages. Never descends: what is wrong may be nested without end.
std::string Shown(const Json& value) {
  std::string text = value.type_name();
  if (value.is_number() || value.is_boolean()) text = value.dump();
  if (value.is_string()) text = "\"" + value.get_ref<const std::string&>().substr(0, 60) + "\"";
  if (!TypeOf(value).empty()) text = TypeOf(value).substr(0, 60);
  return text;
}

StatusOr<bool> ReadBool(const Json& object, const char* key) {
  const Json& value = Member(object, key);
  if (!value.is_boolean())
    return InvalidArgument("%s: expected true or false, found %s", key, Shown(value));
  return value.get<bool>();
}

StatusOr<bool> ReadOptionalBool(const Json& object, const char* key, bool missing) {
  return Member(object, key).is_null() ? missing : ReadBool(object, key);
}

StatusOr<uint32_t> ReadId(const Json& value, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxTokenId) {
    return InvalidArgument("%s: expected an id below %d, found %s", what, kMaxTokenId,
                           Shown(value));
  }
  return value.get<uint32_t>();
}

StatusOr<Json> ParseJson(const std::string& text, const char* name) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return InvalidArgument("%s: not JSON (%d bytes)", name, text.size());
  if (!json.is_object())
    return InvalidArgument("%s: expected an object, found %s", name, Shown(json));
  return json;
}

// --- model ---

using Vocabulary =
    absl::flat_hash_map<std::string_view, uint32_t>;  // keys live in TokenizerSpec::vocab

// What the model may not ask for: each of these would change ids.
Status CheckModel(const Json& model) {
  if (TypeOf(model) != "BPE")
    return Unimplemented("model type %s: only BPE is supported", Shown(Member(model, "type")));
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return Unimplemented("model dropout %s", Shown(dropout));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& affix = Member(model, key);
    if (!affix.is_null() && affix != "") return Unimplemented("model %s %s", key, Shown(affix));
  }
  return absl::OkStatus();
}

Status ReadVocab(const Json& model, TokenizerSpec* spec) {
  const Json& vocab = Member(model, "vocab");
  if (!vocab.is_object())
    return InvalidArgument("model.vocab: expected an object, found %s", Shown(vocab));
  spec->vocab.reserve(vocab.size());
  for (const auto& [token, value] : vocab.get_ref<const Json::object_t&>()) {
    ATL_ASSIGN_OR_RETURN(const uint32_t id, ReadId(value, "model.vocab"));
    spec->vocab.emplace_back(token, id);
  }
  return absl::OkStatus();
}

// Who has which id; nullptr: nobody.
StatusOr<std::vector<const std::string*>> TokensById(const TokenizerSpec& spec) {
  std::vector<const std::string*> tokens;
  for (const auto& [token, id] : spec.vocab) {
    if (id >= tokens.size()) tokens.resize(id + 1, nullptr);
    if (tokens[id] != nullptr)
      return InvalidArgument("model.vocab: id %d is that of %s and %s", id, *tokens[id], token);
    tokens[id] = &token;
  }
  return tokens;
}

// "a b" or ["a", "b"].
StatusOr<std::pair<std::string_view, std::string_view>> ReadMergePair(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair<std::string_view, std::string_view>(merge[0].get_ref<const std::string&>(),
                                                         merge[1].get_ref<const std::string&>());
  }
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  }
  return InvalidArgument("model.merges: expected \"a b\" or [\"a\", \"b\"], found %s",
                         Shown(merge));
}

Status ReadMerges(const Json& model, const Vocabulary& ids, TokenizerSpec* spec) {
  const Json& merges = Member(model, "merges");
  if (!merges.is_array())
    return InvalidArgument("model.merges: expected an array, found %s", Shown(merges));
  spec->merges.reserve(merges.size());
  std::string joined;
  for (const Json& merge : merges) {
    ATL_ASSIGN_OR_RETURN(const auto pair, ReadMergePair(merge));
    joined.assign(pair.first).append(pair.second);
    const auto left = ids.find(pair.first), right = ids.find(pair.second),
               result = ids.find(joined);
    if (left == ids.end() || right == ids.end() || result == ids.end()) {
      return InvalidArgument("model.merges: %s + %s: a part or the result is not in the vocabulary",
                             pair.first, pair.second);
    }
    if (pair.first.empty() || pair.second.empty())
      return InvalidArgument("model.merges: an empty part");
    spec->merges.push_back({left->second, right->second, result->second});
  }
  return absl::OkStatus();
}

Status ReadModel(const Json& model, const Vocabulary& ids, TokenizerSpec* spec) {
  ATL_RETURN_IF_ERROR(ReadMerges(model, ids, spec));
  ATL_ASSIGN_OR_RETURN(spec->ignore_merges, ReadOptionalBool(model, "ignore_merges", false));
  // With a token for every byte nothing is ever unknown; else an unknown token or byte fallback
  // would show.
  ATL_ASSIGN_OR_RETURN(const bool byte_fallback, ReadOptionalBool(model, "byte_fallback", false));
  if (!byte_fallback && Member(model, "unk_token").is_null()) return absl::OkStatus();
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(CharacterOfByte(static_cast<unsigned char>(byte)), &token);
    if (!ids.contains(token))
      return Unimplemented("model unk_token or byte_fallback: byte %d has no token", byte);
  }
  return absl::OkStatus();
}

// --- added_tokens ---

Status ReadAddedTokens(const Json& json, const Vocabulary& ids, TokenizerSpec* spec) {
  ATL_ASSIGN_OR_RETURN(const auto tokens, TokensById(*spec));
  const Json& list = Member(json, "added_tokens");
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array())
    return InvalidArgument("added_tokens: expected an array, found %s", Shown(list));
  absl::flat_hash_map<std::string, uint32_t> id_of;
  absl::flat_hash_map<uint32_t, std::string> content_of;
  for (const Json& item : list) {
    AddedToken token;
    const Json& content = Member(item, "content");
    if (!content.is_string() || content == "")
      return InvalidArgument("added_tokens: no content in %s", Shown(item));
    token.content = content.get<std::string>();
    ATL_ASSIGN_OR_RETURN(token.id, ReadId(Member(item, "id"), "added token " + token.content));
    ATL_ASSIGN_OR_RETURN(token.special, ReadBool(item, "special"));
    ATL_ASSIGN_OR_RETURN(token.normalized, ReadBool(item, "normalized"));
    ATL_ASSIGN_OR_RETURN(token.lstrip, ReadBool(item, "lstrip"));
    ATL_ASSIGN_OR_RETURN(token.rstrip, ReadBool(item, "rstrip"));
    ATL_ASSIGN_OR_RETURN(const bool single_word, ReadBool(item, "single_word"));
    if (single_word) return Unimplemented("added token %s: single_word", token.content);
    // A token that the vocabulary has must have its id there; no id is given to two.
    const auto in_vocab = ids.find(token.content);
    const bool known = in_vocab != ids.end();
    const bool taken = !known && token.id < tokens.size() && tokens[token.id] != nullptr;
    const auto [first_id, is_new] = id_of.emplace(token.content, token.id);
    const std::string& owner = content_of.emplace(token.id, token.content).first->second;
    if ((known && in_vocab->second != token.id) || taken || first_id->second != token.id ||
        owner != token.content) {
      return InvalidArgument(
          "added token %s: its id %d is not the one it has elsewhere, or another token's",
          token.content, token.id);
    }
    if (is_new) spec->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// --- normalizer, pre_tokenizer, post_processor, decoder ---

// Calls `read` for `node`, or for each child if it is a Sequence (nested ones, too) whose children
// are under `key`.
template <typename Read>
Status ForEachInSequence(const Json& node, const char* key, const Read& read, int depth = 0) {
  if (TypeOf(node) != "Sequence") return read(node);
  const Json& children = Member(node, key);
  if (!children.is_array() || depth > 8)
    return InvalidArgument("Sequence: expected an array %s, nested 8 deep at most", key);
  for (const Json& child : children)
    ATL_RETURN_IF_ERROR(ForEachInSequence(child, key, read, depth + 1));
  return absl::OkStatus();
}

std::string QuoteForRegex(const std::string& literal) {
  std::string regex;
  for (const char c : literal) {
    if (static_cast<unsigned char>(c) < 0x80 && c > ' ' && !isalnum(static_cast<unsigned char>(c)))
      regex.push_back('\\');
    regex.push_back(c);
  }
  return regex;
}

Status ReadSplit(const Json& node, TokenizerSpec* spec) {
  if (Member(node, "behavior") != "Isolated") {
    return Unimplemented("pre_tokenizer Split: behavior %s: only Isolated is supported",
                         Shown(Member(node, "behavior")));
  }
  ATL_ASSIGN_OR_RETURN(const bool invert, ReadBool(node, "invert"));
  if (invert) return Unimplemented("pre_tokenizer Split: invert");
  const Json& pattern = Member(node, "pattern");
  const Json& regex = Member(pattern, "Regex");
  const Json& literal = Member(pattern, "String");
  if (regex.is_string()) {
    spec->split_regexes.push_back(regex.get<std::string>());
  } else if (literal.is_string() && literal != "") {
    spec->split_regexes.push_back(QuoteForRegex(literal.get<std::string>()));
  } else {
    return InvalidArgument("pre_tokenizer Split: expected pattern.Regex or .String, found %s",
                           Shown(pattern));
  }
  return absl::OkStatus();
}

Status ReadPreTokenizer(const Json& json, TokenizerSpec* spec) {
  bool byte_level = false;
  const auto read = [&](const Json& node) -> Status {
    const std::string type = TypeOf(node);
    if (byte_level) return Unimplemented("pre_tokenizer %s behind ByteLevel", type);
    if (type == "Split") return ReadSplit(node, spec);
    if (type == "Digits") {
      ATL_ASSIGN_OR_RETURN(const bool individual, ReadBool(node, "individual_digits"));
      spec->split_regexes.push_back(individual ? "\\p{N}" : "\\p{N}+");
      return absl::OkStatus();
    }
    if (type == "ByteLevel") {
      byte_level = true;
      ATL_ASSIGN_OR_RETURN(spec->add_prefix_space, ReadBool(node, "add_prefix_space"));
      ATL_ASSIGN_OR_RETURN(spec->use_gpt2_regex, ReadOptionalBool(node, "use_regex", true));
      return absl::OkStatus();
    }
    return Unimplemented("pre_tokenizer %s: only Split, Digits and ByteLevel are supported",
                         Shown(node));
  };
  ATL_RETURN_IF_ERROR(ForEachInSequence(Member(json, "pre_tokenizer"), "pretokenizers", read));
  return byte_level ? absl::OkStatus() : Unimplemented("pre_tokenizer without ByteLevel");
}

Status ReadTemplate(const Json& node, TokenizerSpec* spec) {
  const Json& single = Member(node, "single");
  if (spec->around.has_value()) return Unimplemented("post_processor: two templates");
  if (!single.is_array())
    return InvalidArgument("post_processor TemplateProcessing: single is %s", Shown(single));
  TokenizerSpec::Around around;
  bool behind = false;
  for (const Json& part : single) {
    const Json& name = Member(Member(part, "SpecialToken"), "id");
    if (name.is_string()) {
      const Json& ids =
          Member(Member(Member(node, "special_tokens"), name.get<std::string>().c_str()), "ids");
      if (!ids.is_array()) return InvalidArgument("post_processor: no ids for %s", Shown(name));
      for (const Json& value : ids) {
        ATL_ASSIGN_OR_RETURN(const uint32_t id, ReadId(value, "post_processor"));
        (behind ? around.after : around.before).push_back(id);
      }
    } else if (Member(Member(part, "Sequence"), "id") == "A" && !behind) {
      behind = true;
    } else {
      return Unimplemented("post_processor TemplateProcessing: %s", Shown(part));
    }
  }
  if (!behind) return Unimplemented("post_processor TemplateProcessing without the text");
  spec->around = std::move(around);
  return absl::OkStatus();
}

Status ReadPipeline(const Json& json, TokenizerSpec* spec) {
  for (const char* key : {"truncation", "padding"}) {
    if (!Member(json, key).is_null()) return Unimplemented("%s", key);
  }
  const Json& normalizer = Member(json, "normalizer");
  if (!normalizer.is_null()) {
    ATL_RETURN_IF_ERROR(
        ForEachInSequence(normalizer, "normalizers", [](const Json& node) -> Status {
          return Unimplemented("normalizer %s: none is supported", Shown(node));
        }));
  }
  ATL_RETURN_IF_ERROR(ReadPreTokenizer(json, spec));
  const Json& post_processor = Member(json, "post_processor");
  if (!post_processor.is_null()) {
    ATL_RETURN_IF_ERROR(
        ForEachInSequence(post_processor, "processors", [&](const Json& node) -> Status {
          if (TypeOf(node) == "ByteLevel") return absl::OkStatus();  // moves offsets only
          if (TypeOf(node) == "TemplateProcessing") return ReadTemplate(node, spec);
          return Unimplemented("post_processor %s", Shown(node));
        }));
  }
  const Json& decoder = Member(json, "decoder");
  if (TypeOf(decoder) != "ByteLevel")
    return Unimplemented("decoder %s: only ByteLevel is supported", Shown(decoder));
  return absl::OkStatus();
}

// A token of tokenizer_config.json: a string, or an object with `content`.
StatusOr<std::string> ReadConfigToken(const Json& json, const char* key) {
  const Json* value = &Member(json, key);
  if (value->is_object()) value = &Member(*value, "content");
  if (value->is_null()) return std::string();
  if (!value->is_string())
    return InvalidArgument("tokenizer_config.json: %s: found %s", key, Shown(*value));
  return value->get<std::string>();
}

// A string, or a list of {name, template}, of which "default" is meant.
StatusOr<std::string> ReadChatTemplate(const Json& json) {
  const Json& value = Member(json, "chat_template");
  if (value.is_null()) return std::string();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const Json& item : value) {
      if (Member(item, "name") == "default" && Member(item, "template").is_string()) {
        return Member(item, "template").get<std::string>();
      }
    }
  }
  return InvalidArgument("tokenizer_config.json: chat_template: no default in %s", Shown(value));
}

}  // namespace

StatusOr<TokenizerSpec> ReadTokenizerSpec(const std::string& tokenizer_json) {
  ATL_ASSIGN_OR_RETURN(const Json json, ParseJson(tokenizer_json, "tokenizer.json"));
  TokenizerSpec spec;
  const Json& model = Member(json, "model");
  Status status = ReadPipeline(json, &spec);
  if (status.ok()) status = CheckModel(model);
  if (status.ok()) status = ReadVocab(model, &spec);
  const Vocabulary ids(spec.vocab.begin(), spec.vocab.end());
  if (status.ok()) status = ReadModel(model, ids, &spec);
  if (status.ok()) status = ReadAddedTokens(json, ids, &spec);
  if (!status.ok()) return Annotate(status, "tokenizer.json");
  return spec;
}

StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& config_json) {
  TokenizerConfig config;
  if (config_json.empty()) return config;
  ATL_ASSIGN_OR_RETURN(const Json json, ParseJson(config_json, "tokenizer_config.json"));
  for (const auto& [key, field] : {std::pair("add_bos_token", &config.add_bos_token),
                                   std::pair("add_eos_token", &config.add_eos_token)}) {
    if (Member(json, key).is_null()) continue;
    ATL_ASSIGN_OR_RETURN(*field, ReadBool(json, key));
  }
  ATL_ASSIGN_OR_RETURN(config.bos_token, ReadConfigToken(json, "bos_token"));
  ATL_ASSIGN_OR_RETURN(config.eos_token, ReadConfigToken(json, "eos_token"));
  ATL_ASSIGN_OR_RETURN(config.chat_template, ReadChatTemplate(json));
  return config;
}

}  // namespace atl::text
