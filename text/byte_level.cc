#include "text/byte_level.h"

#include <array>

#include "text/utf8.h"

namespace atl::text {
namespace {

constexpr int kAlphabetEnd = 0x144;  // 0x100 + the 68 bytes that are not printable

constexpr bool IsPrintable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, kAlphabetEnd> byte{};  // -1: no byte's character

  constexpr Alphabet() {
    for (auto& b : byte) b = -1;
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      character[b] = IsPrintable(b) ? b : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

}  // namespace

char32_t CharacterOfByte(unsigned char byte) { return kAlphabet.character[byte]; }

std::optional<std::string> BytesOfToken(std::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  for (size_t pos = 0; pos < token.size();) {
    const CodePoint c = CodePointAt(token, pos);
    if (c.value >= kAlphabetEnd || kAlphabet.byte[c.value] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte[c.value]));
    pos += c.length;
  }
  return bytes;
}

}  // namespace atl::text
