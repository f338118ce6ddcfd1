#include "text/utf8.h"

#include <cstdint>
#include <cstring>

#include "text/tokenizer.h"

namespace atl::text {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// Length of the run of ASCII at the head, eight bytes at a time.
size_t AsciiPrefix(std::string_view bytes) {
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < bytes.size() && static_cast<unsigned char>(bytes[i]) < 0x80) ++i;
  return i;
}

// Appends `bytes` to `out` with ill-formed pieces replaced, up to an unfinished end; returns what
// was used.
size_t AppendReplaced(std::string_view bytes, std::string* out) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    const size_t ascii = AsciiPrefix(bytes.substr(pos));
    out->append(bytes, pos, ascii);
    pos += ascii;
    if (pos == bytes.size()) break;
    const Utf8Piece piece = NextPiece(bytes.substr(pos));
    if (piece.kind == Utf8Piece::kUnfinished) break;
    if (piece.kind == Utf8Piece::kCharacter) {
      out->append(bytes, pos, piece.length);
    } else {
      out->append(kReplacement);
    }
    pos += piece.length;
  }
  return pos;
}

}  // namespace

Utf8Piece NextPiece(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Utf8Piece::kCharacter, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Piece::kIllFormed, 1};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range leaves out overlong forms, surrogates and what lies beyond U+10FFFF.
  unsigned low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (int i = 1; i < length; ++i) {
    if (i == static_cast<int>(bytes.size())) return {Utf8Piece::kUnfinished, i};
    if (byte(i) < low || byte(i) > high) return {Utf8Piece::kIllFormed, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Piece::kCharacter, length};
}

bool IsWellFormed(std::string_view bytes) {
  for (size_t pos = 0;;) {
    pos += AsciiPrefix(bytes.substr(pos));
    if (pos == bytes.size()) return true;
    const Utf8Piece piece = NextPiece(bytes.substr(pos));
    if (piece.kind != Utf8Piece::kCharacter) return false;
    pos += piece.length;
  }
}

std::string ReplaceIllFormed(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  if (AppendReplaced(bytes, &out) < bytes.size()) out.append(kReplacement);
  return out;
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
    return;
  }
  if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
  } else {
    if (c < 0x10000) {
      out->push_back(static_cast<char>(0xE0 | (c >> 12)));
    } else {
      out->push_back(static_cast<char>(0xF0 | (c >> 18)));
      out->push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3F)));
    }
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
  }
  out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
}

std::string Utf8Stream::Push(std::string_view bytes) {
  std::string out;
  if (pending_.empty()) {
    const size_t used = AppendReplaced(bytes, &out);
    pending_.assign(bytes.substr(used));
    return out;
  }
  pending_.append(bytes);
  pending_.erase(0, AppendReplaced(pending_, &out));
  return out;
}

std::string Utf8Stream::Flush() {
  std::string out = pending_.empty() ? std::string() : std::string(kReplacement);
  pending_.clear();
  return out;
}

}  // namespace atl::text
