// What tokenizer.json and tokenizer_config.json say, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace atl::text {

struct AddedToken {
  uint32_t id = 0;
  std::string content;
  bool special = false;     // dropped by decoding with skip_special_tokens
  bool normalized = false;  // looked for after the others, in what they leave
  bool lstrip = false;      // takes the white space before it
  bool rstrip = false;      // takes the white space behind it
};

struct TokenizerSpec {
  // model (BPE). Ids are below kMaxTokenId, none twice; every merge's two parts and result are in
  // the vocabulary.
  std::vector<std::pair<std::string, uint32_t>> vocab;  // spelt in the byte alphabet
  struct Merge {
    uint32_t left, right, result;
  };
  std::vector<Merge> merges;  // by rank
  bool ignore_merges = false;

  std::vector<AddedToken> added_tokens;

  // pre_tokenizer: the Split expressions in order (Digits is one, too), then ByteLevel.
  std::vector<std::string> split_regexes;
  bool add_prefix_space = false;
  bool use_gpt2_regex = false;

  // post_processor: ids around a text; nullopt if it is no template.
  struct Around {
    std::vector<uint32_t> before, after;
  };
  std::optional<Around> around;
};

constexpr uint32_t kMaxTokenId = 1u << 22;  // exclusive; published vocabularies end below 2^18

// InvalidArgument: not what tokenizer.json may hold. Unimplemented: names the piece that is not
// supported.
StatusOr<TokenizerSpec> ReadTokenizerSpec(const std::string& tokenizer_json);

struct TokenizerConfig {
  std::optional<bool> add_bos_token, add_eos_token;
  std::string bos_token, eos_token;
  std::string chat_template;
};

// `config_json` may be empty: all fields are then, too. InvalidArgument names the field.
StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& config_json);

}  // namespace atl::text
