#include "text/jinja_lexer.h"

#include <algorithm>
#include <string_view>

#include "text/jinja_value.h"
#include "text/utf8.h"

namespace atl::text::jinja {
namespace {

// Line ends become \n; one at the end of the source goes.
std::string NormalizeLineEnds(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out.push_back(source[i] == '\r' ? '\n' : source[i]);
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  StatusOr<std::vector<Token>> Run() {
    while (pos_ < source_.size()) {
      ATL_RETURN_IF_ERROR(TextAndTag());
    }
    Emit(Token::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(pos_); }
  bool StartsWith(std::string_view prefix) const {
    return Rest().substr(0, prefix.size()) == prefix;
  }
  int Line() {
    line_ += static_cast<int>(std::count(source_.begin() + counted_, source_.begin() + pos_, '\n'));
    counted_ = pos_;
    return line_;
  }
  void Emit(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), Line()});
  }
  Status Error(const std::string& what) {
    return InvalidArgument("chat template line %d: %s", Line(), what);
  }
  Status Unsupported(const std::string& what) {
    return Unimplemented("chat template line %d: %s", Line(), what);
  }

  Status TextAndTag();
  Status Comment();
  Status Tag(bool is_block);
  Status TagToken();
  Status String();
  Status Escape(std::string* value);
  bool TagEnd(bool is_block);
  void SkipSpace() { pos_ = source_.size() - StripLeft(Rest()).size(); }

  const std::string source_;
  size_t pos_ = 0, counted_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;  // what was read last ended a line
  std::string brackets_;       // those that are open, by their closing character
  std::vector<Token> tokens_;
};

// Text up to the next tag, then that tag.
Status Lexer::TextAndTag() {
  size_t tag = pos_;
  const auto is_tag = [&](size_t at) {
    return source_[at] == '{' && at + 1 < source_.size() &&
           (source_[at + 1] == '{' || source_[at + 1] == '%' || source_[at + 1] == '#');
  };
  while (tag < source_.size() && !is_tag(tag)) ++tag;
  std::string_view text = std::string_view(source_).substr(pos_, tag - pos_);
  if (tag == source_.size()) {
    if (!text.empty()) Emit(Token::kText, std::string(text));
    pos_ = tag;
    return absl::OkStatus();
  }
  const char kind = source_[tag + 1];
  const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
  if (sign == '-') {
    text = StripRight(text);
  } else if (sign != '+' && kind != '{') {
    // lstrip_blocks: blanks between the beginning of the line and the tag go.
    const size_t line_begin = text.rfind('\n') + 1;
    if ((line_begin > 0 || at_line_start_) && StripLeft(text.substr(line_begin)).empty())
      text = text.substr(0, line_begin);
  }
  if (!text.empty()) Emit(Token::kText, std::string(text));
  pos_ = tag + 2;
  if (sign == '-' || sign == '+') ++pos_;
  if (kind == '#') return Comment();
  return Tag(kind == '%');
}

Status Lexer::Comment() {
  const size_t close = source_.find("#}", pos_);
  if (close == std::string::npos) return Error("comment without an end");
  const char sign = close > pos_ ? source_[close - 1] : '\0';
  pos_ = close + 2;
  const size_t tag_end = pos_;
  if (sign == '-') SkipSpace();
  if (sign != '-' && sign != '+' && StartsWith("\n")) ++pos_;
  at_line_start_ = pos_ > tag_end && source_[pos_ - 1] == '\n';
  return absl::OkStatus();
}

// Moves behind the end of the tag if it is here, and behind the white space that goes with it.
bool Lexer::TagEnd(bool is_block) {
  const std::string close = is_block ? "%}" : "}}";
  const size_t before = pos_;
  if (StartsWith("-" + close)) {
    pos_ += 3;
    SkipSpace();
  } else if (is_block && StartsWith("+" + close)) {
    pos_ += 3;
  } else if (StartsWith(close)) {
    pos_ += 2;
    if (is_block && StartsWith("\n")) ++pos_;
  } else {
    return false;
  }
  at_line_start_ = pos_ > before && source_[pos_ - 1] == '\n';
  return true;
}

Status Lexer::Tag(bool is_block) {
  Emit(is_block ? Token::kBlockBegin : Token::kPrintBegin, "");
  const size_t first = tokens_.size();
  while (true) {
    SkipSpace();
    if (pos_ >= source_.size()) return Error("tag without an end");
    const int line = Line();
    if (brackets_.empty() && TagEnd(is_block)) {
      tokens_.push_back({is_block ? Token::kBlockEnd : Token::kPrintEnd, "", line});
      return absl::OkStatus();
    }
    ATL_RETURN_IF_ERROR(TagToken());
    if (is_block && tokens_.size() == first + 1 && tokens_.back().text == "raw")
      return Unsupported("raw block");
  }
}

Status Lexer::TagToken() {
  const char c = source_[pos_];
  if (c == '\'' || c == '"') return String();
  size_t end = pos_;
  if (IsNameStart(c)) {
    while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
    Emit(Token::kName, source_.substr(pos_, end - pos_));
    pos_ = end;
    return absl::OkStatus();
  }
  if (IsDigit(c)) {
    while (end < source_.size() && (IsDigit(source_[end]) || IsNameStart(source_[end]))) ++end;
    const std::string digits = source_.substr(pos_, end - pos_);
    const bool is_float =
        end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1]);
    const bool plain = digits.find_first_not_of("0123456789") == std::string::npos &&
                       digits.size() <= 18 &&
                       (digits[0] != '0' || digits.find_first_not_of('0') == std::string::npos);
    if (is_float || !plain)
      return Unsupported("number " + source_.substr(pos_, std::min<size_t>(end + 2 - pos_, 20)));
    Emit(Token::kInteger, digits);
    pos_ = end;
    return absl::OkStatus();
  }
  if (static_cast<unsigned char>(c) >= 0x80) return Unsupported("a name that is not ASCII");
  static constexpr std::string_view kTwo[] = {"**", "//", "==", "!=", ">=", "<="};
  for (const std::string_view two : kTwo) {
    if (!StartsWith(two)) continue;
    Emit(Token::kOperator, std::string(two));
    pos_ += 2;
    return absl::OkStatus();
  }
  if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
    return Error(std::string("unexpected character ") + c);
  }
  if (c == '(') brackets_.push_back(')');
  if (c == '[') brackets_.push_back(']');
  if (c == '{') brackets_.push_back('}');
  if (c == ')' || c == ']' || c == '}') {
    if (brackets_.empty() || brackets_.back() != c) return Error(std::string("unexpected ") + c);
    brackets_.pop_back();
  }
  Emit(Token::kOperator, std::string(1, c));
  ++pos_;
  return absl::OkStatus();
}

Status Lexer::String() {
  const char quote = source_[pos_++];
  std::string value;
  while (pos_ < source_.size() && source_[pos_] != quote) {
    if (source_[pos_] == '\\') {
      ATL_RETURN_IF_ERROR(Escape(&value));
    } else {
      value.push_back(source_[pos_++]);
    }
  }
  if (pos_ >= source_.size()) return Error("string without an end");
  ++pos_;
  Emit(Token::kString, std::move(value));
  return absl::OkStatus();
}

// Python's escapes; an unknown one stays as it is, with its backslash.
Status Lexer::Escape(std::string* value) {
  if (pos_ + 1 >= source_.size()) return Error("string without an end");
  const char c = source_[pos_ + 1];
  pos_ += 2;
  static constexpr std::string_view kNames = "ntrabfv\\'\"", kValues = "\n\t\r\a\b\f\v\\'\"";
  if (const size_t at = kNames.find(c); at != std::string_view::npos) {
    value->push_back(kValues[at]);
    return absl::OkStatus();
  }
  if (c == '\n') return absl::OkStatus();
  if (c == 'N' || IsDigit(c)) return Unsupported(std::string("string escape \\") + c);
  const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (digits == 0) {
    value->push_back('\\');
    value->push_back(c);
    return absl::OkStatus();
  }
  const std::string hex = source_.substr(pos_, digits);
  if (hex.size() != digits ||
      hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
    return Error(std::string("bad string escape \\") + c);
  }
  const auto code = static_cast<char32_t>(std::stoul(hex, nullptr, 16));
  if (code > 0x10FFFF) return Error(std::string("bad string escape \\") + c);
  if (code >= 0xD800 && code <= 0xDFFF) return Unsupported("a surrogate in a string");
  AppendUtf8(code, value);
  pos_ += digits;
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::vector<Token>> Tokenize(const std::string& source) {
  if (!IsWellFormed(source)) return InvalidArgument("chat template: not UTF-8");
  return Lexer(NormalizeLineEnds(source)).Run();
}

}  // namespace atl::text::jinja
