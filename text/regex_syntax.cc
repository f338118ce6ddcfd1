#include "text/regex_syntax.h"

#include <cstdlib>
#include <cstring>

#include "text/utf8.h"

namespace atl::text {
namespace {

bool IsAsciiAlnum(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

CharSet Single(char32_t c) {
  CharSet set;
  set.Add(c, c);
  return set;
}

Status Unsupported(const std::string& regex, size_t pos, const std::string& what) {
  return Unimplemented("regular expression %s: %s at byte %d", regex, what, pos);
}

// Hexadecimal digits of \uHHHH (`digits` = 4) or \x{...} (`digits` = 0: up to the brace).
StatusOr<char32_t> ParseHex(const std::string& regex, size_t* pos, int digits) {
  char32_t value = 0;
  int count = 0;
  for (; *pos < regex.size() && (digits == 0 ? count < 8 : count < digits); ++count, ++*pos) {
    const int digit = HexDigit(regex[*pos]);
    if (digit < 0) break;
    value = value * 16 + digit;
  }
  if (count == 0 || (digits != 0 && count != digits) || value > 0x10FFFF ||
      (value >= 0xD800 && value <= 0xDFFF)) {
    return InvalidArgument("regular expression %s: no code point in hexadecimal at byte %d", regex,
                           *pos);
  }
  return value;
}

// \p{X} or \P{X}; *pos is at the letter p.
StatusOr<CharSet> ParseProperty(const std::string& regex, size_t* pos) {
  const size_t start = *pos - 1;
  bool negated = regex[*pos] == 'P';
  const size_t close = regex.find('}', *pos);
  if (*pos + 1 >= regex.size() || regex[*pos + 1] != '{' || close == std::string::npos) {
    return InvalidArgument("regular expression %s: expected {name} after \\p at byte %d", regex,
                           start);
  }
  std::string name = regex.substr(*pos + 2, close - *pos - 2);
  if (!name.empty() && name[0] == '^') {
    negated = !negated;
    name.erase(0, 1);
  }
  static constexpr struct {
    char name;
    UnicodeClass bit;
  } kNames[] = {{'L', kLetter}, {'M', kMark}, {'N', kNumber}, {'P', kPunctuation}, {'S', kSymbol}};
  for (const auto& known : kNames) {
    if (name.size() != 1 || name[0] != known.name) continue;
    *pos = close + 1;
    const CharSet set = CharSet::Of(known.bit);
    return negated ? set.Complement() : set;
  }
  return Unsupported(regex, start, "property \\p{" + name + "}");
}

// *pos is at the backslash.
StatusOr<CharSet> ParseEscape(const std::string& regex, size_t* pos) {
  const size_t start = (*pos)++;
  if (*pos >= regex.size())
    return InvalidArgument("regular expression %s: ends in a backslash", regex);
  const char c = regex[*pos];
  if (c == 'p' || c == 'P') return ParseProperty(regex, pos);
  if (c == 'u' || (c == 'x' && regex.compare(*pos, 2, "x{") == 0)) {
    *pos += c == 'u' ? 1 : 2;
    ATL_ASSIGN_OR_RETURN(const char32_t value, ParseHex(regex, pos, c == 'u' ? 4 : 0));
    if (c == 'x' && (*pos >= regex.size() || regex[(*pos)++] != '}')) {
      return InvalidArgument("regular expression %s: \\x{ without } at byte %d", regex, start);
    }
    return Single(value);
  }
  ++*pos;
  if (c == 's') return CharSet::Of(kSpace);
  if (c == 'S') return CharSet::Of(kSpace).Complement();
  static constexpr char kNames[] = "rntfv", kValues[] = "\r\n\t\f\v";
  if (const char* known = std::strchr(kNames, c); known != nullptr && c != '\0')
    return Single(kValues[known - kNames]);
  if (IsAsciiAlnum(c) || static_cast<unsigned char>(c) >= 0x80 ||
      static_cast<unsigned char>(c) < 0x20) {
    return Unsupported(regex, start, std::string("escape \\") + c);
  }
  return Single(c);
}

// The lone code point of `set`, or -1.
int64_t OnlyMember(const CharSet& set) {
  const auto& ranges = set.ranges();
  return ranges.size() == 1 && ranges[0].first == ranges[0].second ? int64_t{ranges[0].first} : -1;
}

// *pos is at the opening bracket.
StatusOr<CharSet> ParseClass(const std::string& regex, size_t* pos) {
  const size_t start = (*pos)++;
  bool negated = false;
  if (*pos < regex.size() && regex[*pos] == '^') {
    negated = true;
    ++*pos;
  }
  if (*pos < regex.size() && regex[*pos] == ']')
    return Unsupported(regex, *pos, "] at the head of a class");
  CharSet set;
  const auto member = [&]() -> StatusOr<CharSet> {
    if (regex[*pos] == '\\') return ParseEscape(regex, pos);
    if (regex[*pos] == '[') return Unsupported(regex, *pos, "a class within a class");
    if (regex.compare(*pos, 2, "&&") == 0) return Unsupported(regex, *pos, "&& in a class");
    const CodePoint c = CodePointAt(regex, *pos);
    *pos += c.length;
    return Single(c.value);
  };
  while (*pos < regex.size() && regex[*pos] != ']') {
    ATL_ASSIGN_OR_RETURN(const CharSet first, member());
    if (*pos + 1 < regex.size() && regex[*pos] == '-' && regex[*pos + 1] != ']') {
      const size_t dash = (*pos)++;
      ATL_ASSIGN_OR_RETURN(const CharSet last, member());
      const int64_t low = OnlyMember(first), high = OnlyMember(last);
      if (low < 0 || high < low)
        return InvalidArgument("regular expression %s: bad range at byte %d", regex, dash);
      set.Add(static_cast<char32_t>(low), static_cast<char32_t>(high));
    } else {
      set.Add(first);
    }
  }
  if (*pos >= regex.size())
    return InvalidArgument("regular expression %s: [ without ] at byte %d", regex, start);
  ++*pos;
  return negated ? set.Complement() : set;
}

void AppendHex(char32_t c, std::string* out) {
  out->append(absl::StrFormat("\\x{%x}", static_cast<uint32_t>(c)));
}

void AppendSet(const CharSet& set, std::string* out) {
  if (const int64_t only = OnlyMember(set); only >= 0)
    return AppendHex(static_cast<char32_t>(only), out);
  if (set.ranges().empty()) {
    out->append("(?!)");
    return;
  }
  out->push_back('[');
  for (const auto& [first, last] : set.ranges()) {
    AppendHex(first, out);
    out->push_back('-');
    AppendHex(last, out);
  }
  out->push_back(']');
}

// A quantifier at regex[*pos], copied; nothing if there is none.
Status CopyQuantifier(const std::string& regex, size_t* pos, std::string* out) {
  if (*pos >= regex.size()) return absl::OkStatus();
  const char c = regex[*pos];
  if (c == '*' || c == '+' || c == '?') {
    out->push_back(c);
    ++*pos;
    if (*pos < regex.size() && (regex[*pos] == '?' || regex[*pos] == '+'))
      out->push_back(regex[(*pos)++]);
  } else if (c == '{') {
    const size_t close = regex.find('}', *pos);
    const std::string bounds =
        regex.substr(*pos + 1, close == std::string::npos ? close : close - *pos - 1);
    const bool plain = close != std::string::npos && !bounds.empty() && bounds[0] != ',' &&
                       bounds.size() <= 9 &&
                       bounds.find_first_not_of("0123456789,") == std::string::npos &&
                       bounds.find(',') == bounds.rfind(',');
    if (!plain) return Unsupported(regex, *pos, "repetition {" + bounds + "}");
    out->append(regex, *pos, close + 1 - *pos);
    *pos = close + 1;
  } else {
    return absl::OkStatus();
  }
  if (*pos < regex.size() && std::strchr("*+?{", regex[*pos]) != nullptr && regex[*pos] != '\0') {
    return Unsupported(regex, *pos, "a quantifier after a quantifier");
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<CharSet> ParseSet(const std::string& regex, size_t* pos) {
  if (*pos >= regex.size())
    return InvalidArgument("regular expression %s: ends where a set is expected", regex);
  switch (regex[*pos]) {
    case '[':
      return ParseClass(regex, pos);
    case '\\':
      return ParseEscape(regex, pos);
    case '.':
      ++*pos;
      return Single('\n').Complement();
    default:
      break;
  }
  if (std::strchr("*+?{}()|^$]", regex[*pos]) != nullptr) {
    return Unsupported(regex, *pos, std::string("character ") + regex[*pos]);
  }
  const CodePoint c = CodePointAt(regex, *pos);
  *pos += c.length;
  return Single(c.value);
}

StatusOr<std::string> TranslateRegex(const std::string& regex) {
  if (!IsWellFormed(regex)) return InvalidArgument("regular expression is not UTF-8");
  static constexpr const char* kGroups[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
  std::string out;
  for (size_t pos = 0; pos < regex.size();) {
    const char c = regex[pos];
    if (c == '|' || c == '^' || c == '$') {
      out.push_back(c);
      ++pos;
      continue;
    }
    if (c == '(') {
      std::string opening = "(";
      for (const char* group : kGroups) {
        if (regex.compare(pos, std::strlen(group), group) == 0) opening = group;
      }
      if (opening == "(" && regex.compare(pos, 2, "(?") == 0)
        return Unsupported(regex, pos, "group (?");
      out.append(opening);
      pos += opening.size();
      continue;
    }
    if (c == ')') {
      out.push_back(c);
      ++pos;
    } else {
      ATL_ASSIGN_OR_RETURN(const CharSet set, ParseSet(regex, &pos));
      AppendSet(set, &out);
    }
    ATL_RETURN_IF_ERROR(CopyQuantifier(regex, &pos, &out));
  }
  return out;
}

}  // namespace atl::text
