// UTF-8: reading code points, and what to do with bytes that are none.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atl::text {

// What stands at the head of a byte string.
struct Utf8Piece {
  enum Kind { kCharacter, kIllFormed, kUnfinished };
  Kind kind;
  int length;  // bytes: the character, the maximal ill-formed piece, or all that is left of an
               // unfinished one
};

// REQUIRES: !bytes.empty(). kUnfinished: the bytes end inside a character that is well-formed so
// far. Source: Unicode 16, table 3-7 and "Substitution of Maximal Subparts"; Rust's from_utf8_lossy
// does the same.
Utf8Piece NextPiece(std::string_view bytes);

bool IsWellFormed(std::string_view bytes);

// `bytes` with every maximal ill-formed piece (and an unfinished end) replaced by U+FFFD.
std::string ReplaceIllFormed(std::string_view bytes);

void AppendUtf8(char32_t code_point, std::string* out);

struct CodePoint {
  char32_t value;
  int length;
};

// The code point at text[pos]. REQUIRES: well-formed text, pos at the start of a character.
inline CodePoint CodePointAt(std::string_view text, size_t pos) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + pos;
  const char32_t c = p[0];
  if (c < 0x80) return {c, 1};
  if (c < 0xE0) return {((c & 0x1F) << 6) | (p[1] & 0x3Fu), 2};
  if (c < 0xF0) return {((c & 0x0F) << 12) | ((p[1] & 0x3Fu) << 6) | (p[2] & 0x3Fu), 3};
  return {((c & 0x07) << 18) | ((p[1] & 0x3Fu) << 12) | ((p[2] & 0x3Fu) << 6) | (p[3] & 0x3Fu), 4};
}

// The start of the last character that ends at `pos`. REQUIRES: well-formed text, pos > 0.
inline size_t PreviousStart(std::string_view text, size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

}  // namespace atl::text
