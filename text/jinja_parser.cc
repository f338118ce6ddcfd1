#include "text/jinja_parser.h"

#include "text/jinja_expr_parser.h"
#include "text/jinja_lexer.h"

namespace atl::text::jinja {
namespace {

class Parser {
 public:
  explicit Parser(const std::vector<Token>* tokens) : in_(tokens) {}

  // Statements up to a block whose name is one of `ends`; that name is skipped and given in
  // *ended_by. Without `ends`: up to the end of the template.
  StatusOr<Body> Statements(const std::vector<std::string>& ends, std::string* ended_by);

 private:
  StatusOr<Statement> Block(const std::string& name);
  StatusOr<Statement> Set();
  StatusOr<Statement> If();
  StatusOr<Statement> For();
  Statement Make(Statement::Kind kind) const { return {kind, in_.Peek().line, "", {}, {}, {}}; }
  Status EndOfBlock() { return in_.Expect(Token::kBlockEnd, "%}"); }

  ExprParser in_;
  int nesting_ = 0;
};

StatusOr<Body> Parser::Statements(const std::vector<std::string>& ends, std::string* ended_by) {
  if (++nesting_ > kMaxDepth / 3)
    return in_.Error(absl::StrFormat("blocks nested deeper than %d", nesting_));
  Body body;
  while (in_.Peek().kind != Token::kEnd) {
    if (in_.Peek().kind == Token::kText) {
      body.push_back(Make(Statement::kText));
      body.back().text = in_.Next().text;
    } else if (in_.Peek().kind == Token::kPrintBegin) {
      in_.Next();
      body.push_back(Make(Statement::kPrint));
      ATL_ASSIGN_OR_RETURN(ExprPtr expr, in_.Expression());
      if (in_.PeekOperator(",")) return in_.Unsupported("tuple");
      ATL_RETURN_IF_ERROR(in_.Expect(Token::kPrintEnd, "}}"));
      body.back().exprs.push_back(std::move(expr));
    } else {
      in_.Next();
      if (in_.Peek().kind != Token::kName) return in_.Error("expected a block's name");
      const std::string name = in_.Next().text;
      for (const std::string& end : ends) {
        if (name != end) continue;
        *ended_by = name;
        --nesting_;
        return body;
      }
      ATL_ASSIGN_OR_RETURN(Statement statement, Block(name));
      body.push_back(std::move(statement));
    }
  }
  if (!ends.empty()) return in_.Error("the template ends where " + ends.back() + " is expected");
  --nesting_;
  return body;
}

StatusOr<Statement> Parser::Block(const std::string& name) {
  if (name == "set") return Set();
  if (name == "if") return If();
  if (name == "for") return For();
  if (name == "elif" || name == "else" || name.compare(0, 3, "end") == 0)
    return in_.Error("unexpected " + name);
  return in_.Unsupported("block " + name);
}

StatusOr<Statement> Parser::Set() {
  Statement statement = Make(Statement::kSet);
  ATL_ASSIGN_OR_RETURN(std::string name, in_.ExpectIdentifier());
  statement.names.push_back(std::move(name));
  if (in_.SkipOperator(".")) {
    ATL_ASSIGN_OR_RETURN(name, in_.ExpectIdentifier());
    statement.names.push_back(std::move(name));
  }
  if (in_.PeekOperator(",")) return in_.Unsupported("set of several names");
  if (in_.Peek().kind == Token::kBlockEnd || in_.PeekOperator("|"))
    return in_.Unsupported("set with a body");
  ATL_RETURN_IF_ERROR(in_.ExpectOperator("="));
  ATL_ASSIGN_OR_RETURN(ExprPtr value, in_.Expression());
  if (in_.PeekOperator(",")) return in_.Unsupported("tuple");
  statement.exprs.push_back(std::move(value));
  ATL_RETURN_IF_ERROR(EndOfBlock());
  return statement;
}

StatusOr<Statement> Parser::If() {
  Statement statement = Make(Statement::kIf);
  std::string ended_by = "elif";
  while (ended_by == "elif") {
    ATL_ASSIGN_OR_RETURN(ExprPtr condition, in_.Or());
    ATL_RETURN_IF_ERROR(EndOfBlock());
    ATL_ASSIGN_OR_RETURN(Body body, Statements({"elif", "else", "endif"}, &ended_by));
    statement.exprs.push_back(std::move(condition));
    statement.bodies.push_back(std::move(body));
  }
  if (ended_by == "else") {
    ATL_RETURN_IF_ERROR(EndOfBlock());
    ATL_ASSIGN_OR_RETURN(Body body, Statements({"endif"}, &ended_by));
    statement.bodies.push_back(std::move(body));
  }
  ATL_RETURN_IF_ERROR(EndOfBlock());
  return statement;
}

StatusOr<Statement> Parser::For() {
  Statement statement = Make(Statement::kFor);
  const bool bracketed = in_.SkipOperator("(");
  do {
    ATL_ASSIGN_OR_RETURN(std::string name, in_.ExpectIdentifier());
    statement.names.push_back(std::move(name));
  } while (in_.SkipOperator(","));
  if (bracketed) ATL_RETURN_IF_ERROR(in_.ExpectOperator(")"));
  if (!in_.SkipName("in")) return in_.Error("expected in");
  ATL_ASSIGN_OR_RETURN(ExprPtr items, in_.Or());
  statement.exprs.push_back(std::move(items));
  if (in_.PeekOperator(",")) return in_.Unsupported("tuple");
  ExprPtr filter;
  if (in_.SkipName("if")) {
    ATL_ASSIGN_OR_RETURN(filter, in_.Expression());
  }
  statement.exprs.push_back(std::move(filter));
  if (in_.PeekName("recursive")) return in_.Unsupported("recursive for");
  ATL_RETURN_IF_ERROR(EndOfBlock());
  std::string ended_by;
  ATL_ASSIGN_OR_RETURN(Body body, Statements({"else", "endfor"}, &ended_by));
  statement.bodies.push_back(std::move(body));
  statement.bodies.emplace_back();
  if (ended_by == "else") {
    ATL_RETURN_IF_ERROR(EndOfBlock());
    ATL_ASSIGN_OR_RETURN(statement.bodies.back(), Statements({"endfor"}, &ended_by));
  }
  ATL_RETURN_IF_ERROR(EndOfBlock());
  return statement;
}

}  // namespace

StatusOr<Body> ParseTemplate(const std::string& source) {
  ATL_ASSIGN_OR_RETURN(const std::vector<Token> tokens, Tokenize(source));
  std::string ended_by;
  return Parser(&tokens).Statements({}, &ended_by);
}

}  // namespace atl::text::jinja
