// GPT-2's byte alphabet: tokenizer.json spells every byte as one printable character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace atl::text {

// The character that stands for `byte`: itself where it is printable Latin-1, else U+0100 and up in
// order. Source: GPT-2 encoder.py, bytes_to_unicode.
char32_t CharacterOfByte(unsigned char byte);

// The bytes that `token` spells; nullopt if a character of it is outside the alphabet.
std::optional<std::string> BytesOfToken(std::string_view token);

}  // namespace atl::text
