#include "text/tokenizer.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "base/file.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_spec.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

constexpr int64_t kMaxChatTemplateBytes = 1 << 20;

std::vector<AddedToken> Chosen(const std::vector<AddedToken>& tokens, bool normalized) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : tokens) {
    if (token.normalized == normalized) chosen.push_back(token);
  }
  return chosen;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(const TokenizerSpec& spec, PreTokenizer pre, TokenizerConfig config_in)
      : added(Chosen(spec.added_tokens, false)),
        added_normalized(Chosen(spec.added_tokens, true)),
        pre_tokenizer(std::move(pre)),
        bpe(spec),
        config(std::move(config_in)) {
    FillBytes(spec);
  }

  void FillBytes(const TokenizerSpec& spec);
  // The ids around a text that add_special_tokens puts there.
  Status FillAround(const TokenizerSpec& spec);
  void EncodeText(std::string_view text, PreTokenizer::Scratch* scratch,
                  std::vector<uint32_t>* ids) const;

  const AddedTokenMatcher added, added_normalized;
  const PreTokenizer pre_tokenizer;
  const Bpe bpe;
  TokenizerConfig config;
  std::string pool;  // bytes of all tokens
  struct Place {
    uint32_t begin = 0, size = 0;
    bool special = false, known = false;
  };
  std::vector<Place> places;  // by id
  TokenizerSpec::Around around;
};

void Tokenizer::Impl::FillBytes(const TokenizerSpec& spec) {
  uint32_t size = 0;
  for (const auto& [token, id] : spec.vocab) size = std::max(size, id + 1);
  for (const AddedToken& token : spec.added_tokens) size = std::max(size, token.id + 1);
  places.resize(size);
  const auto put = [&](uint32_t id, const std::string& token) {
    // tokenizers decodes added tokens like the others: by the byte alphabet if all their characters
    // are in it.
    const std::string bytes = BytesOfToken(token).value_or(token);
    places[id] = {static_cast<uint32_t>(pool.size()), static_cast<uint32_t>(bytes.size()), false,
                  true};
    pool += bytes;
  };
  for (const auto& [token, id] : spec.vocab) put(id, token);
  for (const AddedToken& token : spec.added_tokens) {
    if (!places[token.id].known) put(token.id, token.content);
    places[token.id].special = token.special;
  }
}

Status Tokenizer::Impl::FillAround(const TokenizerSpec& spec) {
  if (spec.around.has_value()) around = *spec.around;
  const auto set = [&](const char* key, const std::optional<bool>& wanted, const std::string& token,
                       std::vector<uint32_t>* ids) -> Status {
    if (!wanted.has_value()) return absl::OkStatus();
    ids->clear();
    if (!*wanted) return absl::OkStatus();
    for (const AddedToken& added : spec.added_tokens) {
      if (added.content == token) ids->assign(1, added.id);
    }
    if (!ids->empty()) return absl::OkStatus();
    return InvalidArgument(
        "tokenizer_config.json: %s is true, but the token \"%s\" is not in tokenizer.json", key,
        token);
  };
  ATL_RETURN_IF_ERROR(set("add_bos_token", config.add_bos_token, config.bos_token, &around.before));
  ATL_RETURN_IF_ERROR(set("add_eos_token", config.add_eos_token, config.eos_token, &around.after));
  for (const auto* ids : {&around.before, &around.after}) {
    for (const uint32_t id : *ids) {
      if (id >= places.size() || !places[id].known)
        return InvalidArgument("post_processor: unknown id %d", id);
    }
  }
  return absl::OkStatus();
}

void Tokenizer::Impl::EncodeText(std::string_view text, PreTokenizer::Scratch* scratch,
                                 std::vector<uint32_t>* ids) const {
  std::vector<AddedTokenMatcher::Piece> outer, inner;
  added.Split(text, &outer);
  for (const auto& piece : outer) {
    if (piece.token != nullptr) {
      ids->push_back(piece.token->id);
      continue;
    }
    inner.clear();
    added_normalized.Split(piece.text, &inner);
    for (const auto& part : inner) {
      if (part.token != nullptr) {
        ids->push_back(part.token->id);
        continue;
      }
      pre_tokenizer.Split(part.text, scratch);
      for (const std::string_view word : scratch->words) bpe.Encode(word, ids);
    }
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& dir) {
  ATL_ASSIGN_OR_RETURN(const std::string tokenizer_json, ReadFile(dir + "/tokenizer.json"));
  std::string config_json;  // may be absent
  const std::string config_path = dir + "/tokenizer_config.json";
  if (FileExists(config_path)) {
    ATL_ASSIGN_OR_RETURN(config_json, ReadFile(config_path));
  }
  auto tokenizer = Parse(tokenizer_json, config_json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), dir);
  // Newer checkpoints keep the template in a file of its own, which is then the one that counts.
  const std::string template_path = dir + "/chat_template.jinja";
  if (FileExists(template_path)) {
    ATL_ASSIGN_OR_RETURN((*tokenizer)->impl_->config.chat_template,
                         ReadFile(template_path, kMaxChatTemplateBytes));
  }
  return tokenizer;
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(const std::string& tokenizer_json,
                                                      const std::string& config_json) {
  ATL_ASSIGN_OR_RETURN(const TokenizerSpec spec, ReadTokenizerSpec(tokenizer_json));
  ATL_ASSIGN_OR_RETURN(TokenizerConfig config, ReadTokenizerConfig(config_json));
  ATL_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Make(spec));
  auto impl = std::make_unique<Impl>(spec, std::move(pre_tokenizer), std::move(config));
  ATL_RETURN_IF_ERROR(impl->FillAround(spec));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

std::vector<uint32_t> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!IsWellFormed(text)) {
    repaired = ReplaceIllFormed(text);
    text = repaired;
  }
  std::vector<uint32_t> ids;
  ids.reserve(text.size() / 3 + 2);
  if (add_special_tokens) ids = impl_->around.before;
  PreTokenizer::Scratch scratch;
  impl_->EncodeText(text, &scratch, &ids);
  if (add_special_tokens)
    ids.insert(ids.end(), impl_->around.after.begin(), impl_->around.after.end());
  return ids;
}

std::string Tokenizer::Decode(const std::vector<uint32_t>& ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const uint32_t id : ids) bytes += TokenBytes(id, skip_special_tokens);
  return ReplaceIllFormed(bytes);
}

std::string_view Tokenizer::TokenBytes(uint32_t id, bool skip_special) const {
  if (id >= impl_->places.size()) return {};
  const Impl::Place& place = impl_->places[id];
  if (skip_special && place.special) return {};
  return {impl_->pool.data() + place.begin, place.size};
}

uint32_t Tokenizer::vocab_size() const { return static_cast<uint32_t>(impl_->places.size()); }
bool Tokenizer::is_special(uint32_t id) const {
  return id < impl_->places.size() && impl_->places[id].special;
}
const std::string& Tokenizer::bos_token() const { return impl_->config.bos_token; }
const std::string& Tokenizer::eos_token() const { return impl_->config.eos_token; }
const std::string& Tokenizer::chat_template() const { return impl_->config.chat_template; }

}  // namespace atl::text
