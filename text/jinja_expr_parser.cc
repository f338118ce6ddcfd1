#include "text/jinja_expr_parser.h"

#include <algorithm>

namespace atl::text::jinja {
bool IsKeyword(const std::string& name) {
  static constexpr const char* kKeywords[] = {"and", "or", "not", "in", "is", "if", "else", "elif"};
  return std::find(std::begin(kKeywords), std::end(kKeywords), name) != std::end(kKeywords);
}

std::string Shown(const Token& token) {
  switch (token.kind) {
    case Token::kBlockEnd:
      return "%}";
    case Token::kPrintEnd:
      return "}}";
    case Token::kEnd:
      return "the end";
    case Token::kString:
      return "a string";
    default:
      return token.text.empty() ? "text" : token.text;
  }
}

bool ExprParser::SkipOperator(const char* text) {
  if (!PeekOperator(text)) return false;
  ++pos_;
  return true;
}

bool ExprParser::SkipName(const char* text) {
  if (!PeekName(text)) return false;
  ++pos_;
  return true;
}

Status ExprParser::ExpectOperator(const char* text) {
  if (SkipOperator(text)) return absl::OkStatus();
  return Error(std::string("expected ") + text + ", found " + Shown(Peek()));
}

StatusOr<std::string> ExprParser::ExpectIdentifier() {
  if (Peek().kind != Token::kName || IsKeyword(Peek().text))
    return Error("expected a name, found " + Shown(Peek()));
  return Next().text;
}

Status ExprParser::Expect(Token::Kind kind, const char* what) {
  if (Peek().kind != kind)
    return Error(std::string("expected ") + what + ", found " + Shown(Peek()));
  ++pos_;
  return absl::OkStatus();
}

Status ExprParser::Error(const std::string& what) const {
  return InvalidArgument("chat template line %d: %s", Peek().line, what);
}

Status ExprParser::Unsupported(const std::string& what) const {
  return Unimplemented("chat template line %d: %s", Peek().line, what);
}

ExprPtr ExprParser::Make(Expr::Kind kind, std::string name) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = Peek().line;
  expr->name = std::move(name);
  return expr;
}

StatusOr<ExprPtr> ExprParser::Finish(ExprPtr expr) const {
  for (const ExprPtr& operand : expr->operands) {
    if (operand != nullptr) expr->depth = std::max(expr->depth, operand->depth + 1);
  }
  for (const auto& argument : expr->arguments)
    expr->depth = std::max(expr->depth, argument.value->depth + 1);
  if (expr->depth > kMaxDepth)
    return Error(absl::StrFormat("expression nested deeper than %d", kMaxDepth));
  return expr;
}

StatusOr<ExprPtr> ExprParser::Expression() {
  if (nesting_ >= kMaxDepth / 4)
    return Error(absl::StrFormat("expression nested deeper than %d", nesting_));
  ++nesting_;
  StatusOr<ExprPtr> result = Or();
  while (result.ok() && SkipName("if")) {
    ExprPtr expr = Make(Expr::kConditional);
    expr->operands.push_back(*std::move(result));
    result = Or();
    if (!result.ok()) break;
    expr->operands.push_back(*std::move(result));
    if (SkipName("else")) {
      result = Expression();
      if (!result.ok()) break;
      expr->operands.push_back(*std::move(result));
    }
    result = Finish(std::move(expr));
  }
  --nesting_;
  return result;
}

// below {op below}: leaning to the left.
StatusOr<ExprPtr> ExprParser::Operators(Level below, const std::vector<const char*>& operators) {
  ATL_ASSIGN_OR_RETURN(ExprPtr left, (this->*below)());
  while (Peek().kind == Token::kOperator &&
         std::find(operators.begin(), operators.end(), Peek().text) != operators.end()) {
    ExprPtr expr = Make(Expr::kArithmetic, Peek().text);
    Next();
    ATL_ASSIGN_OR_RETURN(ExprPtr right, (this->*below)());
    expr->operands.push_back(std::move(left));
    expr->operands.push_back(std::move(right));
    ATL_ASSIGN_OR_RETURN(left, Finish(std::move(expr)));
  }
  return left;
}

StatusOr<ExprPtr> ExprParser::Or() {
  ATL_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (PeekName("or")) {
    ExprPtr expr = Make(Expr::kOr);
    Next();
    ATL_ASSIGN_OR_RETURN(ExprPtr right, And());
    expr->operands.push_back(std::move(left));
    expr->operands.push_back(std::move(right));
    ATL_ASSIGN_OR_RETURN(left, Finish(std::move(expr)));
  }
  return left;
}

StatusOr<ExprPtr> ExprParser::And() {
  ATL_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (PeekName("and")) {
    ExprPtr expr = Make(Expr::kAnd);
    Next();
    ATL_ASSIGN_OR_RETURN(ExprPtr right, Not());
    expr->operands.push_back(std::move(left));
    expr->operands.push_back(std::move(right));
    ATL_ASSIGN_OR_RETURN(left, Finish(std::move(expr)));
  }
  return left;
}

StatusOr<ExprPtr> ExprParser::Not() {
  int count = 0;
  while (SkipName("not")) ++count;
  ATL_ASSIGN_OR_RETURN(ExprPtr expr, Comparison());
  for (int i = 0; i < count; ++i) {
    ExprPtr inverse = Make(Expr::kNot);
    inverse->operands.push_back(std::move(expr));
    ATL_ASSIGN_OR_RETURN(expr, Finish(std::move(inverse)));
  }
  return expr;
}

// The comparison operator here, skipped; "" if there is none.
std::string ExprParser::ComparisonOperator() {
  static constexpr const char* kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
  for (const char* text : kOperators) {
    if (SkipOperator(text)) return text;
  }
  if (SkipName("in")) return "in";
  if (PeekName("not") && Peek(1).kind == Token::kName && Peek(1).text == "in") {
    pos_ += 2;
    return "not in";
  }
  return "";
}

StatusOr<ExprPtr> ExprParser::Comparison() {
  ATL_ASSIGN_OR_RETURN(ExprPtr first, Sum());
  ExprPtr expr = Make(Expr::kComparison);
  for (std::string text = ComparisonOperator(); !text.empty(); text = ComparisonOperator()) {
    ATL_ASSIGN_OR_RETURN(ExprPtr next, Sum());
    if (expr->operands.empty()) expr->operands.push_back(std::move(first));
    expr->operands.push_back(std::move(next));
    expr->operators.push_back(std::move(text));
  }
  if (expr->operands.empty()) return first;
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::Sum() { return Operators(&ExprParser::Concat, {"+", "-"}); }

StatusOr<ExprPtr> ExprParser::Concat() {
  ATL_ASSIGN_OR_RETURN(ExprPtr first, Product());
  if (!PeekOperator("~")) return first;
  ExprPtr expr = Make(Expr::kArithmetic, "~");
  expr->operands.push_back(std::move(first));
  while (SkipOperator("~")) {
    ATL_ASSIGN_OR_RETURN(ExprPtr next, Product());
    expr->operands.push_back(std::move(next));
  }
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::Product() { return Operators(&ExprParser::Unary, {"*", "//", "%"}); }

StatusOr<ExprPtr> ExprParser::Unary() {
  ATL_ASSIGN_OR_RETURN(ExprPtr expr, Sign(/*with_filters=*/true));
  if (PeekOperator("**") || PeekOperator("/")) return Unsupported("operator " + Peek().text);
  return expr;
}

StatusOr<ExprPtr> ExprParser::Sign(bool with_filters) {
  ExprPtr expr;
  if (PeekOperator("-") || PeekOperator("+")) {
    if (nesting_ >= kMaxDepth / 4) return Error("too many signs");
    ++nesting_;
    // A plus checks that its operand is a number: 0 + operand.
    const bool minus = PeekOperator("-");
    expr = Make(minus ? Expr::kNegative : Expr::kArithmetic, "+");
    Next();
    StatusOr<ExprPtr> operand = Sign(/*with_filters=*/false);
    --nesting_;
    ATL_RETURN_IF_ERROR(operand.status());
    if (!minus) {
      expr->operands.push_back(Make(Expr::kConstant));
      expr->operands.back()->value = Value(int64_t{0});
    }
    expr->operands.push_back(*std::move(operand));
    ATL_ASSIGN_OR_RETURN(expr, Finish(std::move(expr)));
  } else {
    ATL_ASSIGN_OR_RETURN(expr, Primary());
  }
  ATL_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
  if (!with_filters) return expr;
  return FiltersAndTests(std::move(expr));
}

}  // namespace atl::text::jinja
