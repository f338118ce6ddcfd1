// Byte-level BPE read from tokenizer.json, equal to HuggingFace's `tokenizers`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace atl::text {

// Constant after loading; any thread may call.
class Tokenizer {
 public:
  // Reads DIR/tokenizer.json and, where they are, tokenizer_config.json and chat_template.jinja.
  // NotFound names the missing file; Unimplemented a normaliser, pre-tokenizer, model,
  // post-processor or decoder that is not supported; InvalidArgument what a file may not hold.
  static StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& dir);
  // From tokenizer.json's text and tokenizer_config.json's (may be empty).
  static StatusOr<std::unique_ptr<Tokenizer>> Parse(const std::string& tokenizer_json,
                                                    const std::string& config_json);
  ~Tokenizer();

  // Ids of `text` (any bytes; ill-formed UTF-8 becomes U+FFFD first, as `tokenizers` gets its text
  // from Python or Rust strings). Added tokens in the text are recognised. add_special_tokens: also
  // what the checkpoint asks for around a text: add_bos_token and add_eos_token of
  // tokenizer_config.json where they are given, else the template of tokenizer.json's
  // post_processor.
  std::vector<uint32_t> Encode(std::string_view text, bool add_special_tokens) const;

  // Text of `ids`; every maximal ill-formed piece of UTF-8 becomes one U+FFFD. Ids outside the
  // vocabulary add nothing.
  std::string Decode(const std::vector<uint32_t>& ids, bool skip_special_tokens) const;

  // The bytes that one id adds to the text (not UTF-8 by itself). Special tokens give nothing if
  // skip_special.
  std::string_view TokenBytes(uint32_t id, bool skip_special) const;

  // Ids known, added tokens included: the largest id + 1.
  uint32_t vocab_size() const;
  bool is_special(uint32_t id) const;
  const std::string& bos_token() const;
  const std::string& eos_token() const;
  const std::string& chat_template() const;  // empty: none

  struct Impl;

 private:
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Cuts a growing byte stream at complete characters: what it returns, put together, is what
// decoding all bytes at once would give (ill-formed pieces as U+FFFD once they are known to be
// ill-formed). Thread-compatible.
class Utf8Stream {
 public:
  // Appends bytes; returns the text that is complete now.
  std::string Push(std::string_view bytes);
  // The rest: an unfinished character becomes U+FFFD.
  std::string Flush();
  bool empty() const { return pending_.empty(); }

 private:
  std::string pending_;
};

}  // namespace atl::text
