// Parses expressions from a token list. Used by jinja_parser.cc.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace atl::text::jinja {

constexpr int kMaxDepth = 300;  // of expressions and of statements

bool IsKeyword(const std::string& name);
std::string Shown(const Token& token);  // for messages

// Reads tokens from `tokens[*pos]` on. Precedence as in jinja2 3.1, parser.py.
class ExprParser {
 public:
  explicit ExprParser(const std::vector<Token>* tokens) : tokens_(*tokens) {}

  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(pos_ + ahead, tokens_.size() - 1)];
  }
  const Token& Next() { return tokens_[std::min(pos_++, tokens_.size() - 1)]; }
  bool PeekOperator(const char* text) const {
    return Peek().kind == Token::kOperator && Peek().text == text;
  }
  bool PeekName(const char* text) const {
    return Peek().kind == Token::kName && Peek().text == text;
  }
  bool SkipOperator(const char* text);
  bool SkipName(const char* text);
  Status ExpectOperator(const char* text);
  StatusOr<std::string> ExpectIdentifier();  // a name that is no keyword
  Status Expect(Token::Kind kind, const char* what);

  Status Error(const std::string& what) const;
  Status Unsupported(const std::string& what) const;

  StatusOr<ExprPtr> Expression();  // with `a if b else c`
  StatusOr<ExprPtr> Or();          // without

 private:
  using Level = StatusOr<ExprPtr> (ExprParser::*)();

  ExprPtr Make(Expr::Kind kind, std::string name = "") const;
  StatusOr<ExprPtr> Finish(ExprPtr expr) const;  // counts its depth
  StatusOr<ExprPtr> Operators(Level below, const std::vector<const char*>& operators);
  StatusOr<ExprPtr> And();
  StatusOr<ExprPtr> Not();
  StatusOr<ExprPtr> Comparison();
  StatusOr<ExprPtr> Sum();
  StatusOr<ExprPtr> Concat();
  StatusOr<ExprPtr> Product();
  StatusOr<ExprPtr> Unary();
  StatusOr<ExprPtr> Sign(bool with_filters);
  StatusOr<ExprPtr> Primary();
  StatusOr<ExprPtr> NameOrCall();
  StatusOr<ExprPtr> ListLiteral();
  StatusOr<ExprPtr> DictLiteral();
  StatusOr<ExprPtr> Postfix(ExprPtr expr);
  StatusOr<ExprPtr> Subscript(ExprPtr object);
  StatusOr<ExprPtr> Attribute(ExprPtr object);
  StatusOr<ExprPtr> FiltersAndTests(ExprPtr expr);
  StatusOr<ExprPtr> Test(ExprPtr subject);
  Status Arguments(Expr* call);
  std::string ComparisonOperator();

  const std::vector<Token>& tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
};

}  // namespace atl::text::jinja
