// The operands of ExprParser: literals, names, calls, subscripts, filters and tests.
#include "text/jinja_builtins.h"
#include "text/jinja_expr_parser.h"

namespace atl::text::jinja {

StatusOr<ExprPtr> ExprParser::Primary() {
  const Token& token = Peek();
  if (token.kind == Token::kName) return NameOrCall();
  ExprPtr expr = Make(Expr::kConstant);
  if (token.kind == Token::kString) {
    std::string text;
    while (Peek().kind == Token::kString) text += Next().text;
    expr->value = Value(std::move(text));
    return expr;
  }
  if (token.kind == Token::kInteger) {
    expr->value = Value(static_cast<int64_t>(std::stoll(Next().text)));
    return expr;
  }
  if (SkipOperator("(")) {
    if (PeekOperator(")")) return Unsupported("tuple");
    ATL_ASSIGN_OR_RETURN(expr, Expression());
    if (PeekOperator(",")) return Unsupported("tuple");
    ATL_RETURN_IF_ERROR(ExpectOperator(")"));
    return expr;
  }
  if (PeekOperator("[")) return ListLiteral();
  if (PeekOperator("{")) return DictLiteral();
  return Error("expected an expression, found " + Shown(token));
}

StatusOr<ExprPtr> ExprParser::NameOrCall() {
  ExprPtr expr = Make(Expr::kConstant);
  ATL_ASSIGN_OR_RETURN(expr->name, ExpectIdentifier());
  if (expr->name == "true" || expr->name == "True") {
    expr->value = Value(true);
  } else if (expr->name == "false" || expr->name == "False") {
    expr->value = Value(false);
  } else if (expr->name != "none" && expr->name != "None") {
    expr->kind = PeekOperator("(") ? Expr::kFunction : Expr::kName;
  }
  if (expr->kind != Expr::kFunction) return expr;
  if (!IsFunction(expr->name)) return Unsupported("function " + expr->name);
  ATL_RETURN_IF_ERROR(Arguments(expr.get()));
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::ListLiteral() {
  ExprPtr expr = Make(Expr::kList);
  ATL_RETURN_IF_ERROR(ExpectOperator("["));
  while (!SkipOperator("]")) {
    if (!expr->operands.empty()) {
      ATL_RETURN_IF_ERROR(ExpectOperator(","));
      if (SkipOperator("]")) break;
    }
    ATL_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    expr->operands.push_back(std::move(item));
  }
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::DictLiteral() {
  ExprPtr expr = Make(Expr::kDict);
  ATL_RETURN_IF_ERROR(ExpectOperator("{"));
  while (!SkipOperator("}")) {
    if (!expr->operands.empty()) {
      ATL_RETURN_IF_ERROR(ExpectOperator(","));
      if (SkipOperator("}")) break;
    }
    ATL_ASSIGN_OR_RETURN(ExprPtr key, Expression());
    ATL_RETURN_IF_ERROR(ExpectOperator(":"));
    ATL_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    expr->operands.push_back(std::move(key));
    expr->operands.push_back(std::move(value));
  }
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::Postfix(ExprPtr expr) {
  while (true) {
    if (SkipOperator(".")) {
      ATL_ASSIGN_OR_RETURN(expr, Attribute(std::move(expr)));
    } else if (PeekOperator("[")) {
      ATL_ASSIGN_OR_RETURN(expr, Subscript(std::move(expr)));
    } else if (PeekOperator("(")) {
      return Unsupported("a call of something that is no name");
    } else {
      return expr;
    }
  }
}

StatusOr<ExprPtr> ExprParser::Attribute(ExprPtr object) {
  if (Peek().kind == Token::kInteger) return Unsupported("a number as attribute");
  if (Peek().kind != Token::kName)
    return Error("expected a name after the dot, found " + Shown(Peek()));
  ExprPtr expr = Make(Expr::kAttribute, Next().text);
  expr->operands.push_back(std::move(object));
  if (PeekOperator("(")) {
    expr->kind = Expr::kMethod;
    if (!IsMethod(expr->name)) return Unsupported("method " + expr->name);
    ATL_RETURN_IF_ERROR(Arguments(expr.get()));
  } else if (IsPythonMethod(expr->name)) {
    return Unsupported("method " + expr->name + " without a call");
  }
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::Subscript(ExprPtr object) {
  ExprPtr expr = Make(Expr::kItem);
  expr->operands.push_back(std::move(object));
  ATL_RETURN_IF_ERROR(ExpectOperator("["));
  int colons = 0;
  while (true) {
    ExprPtr part;
    if (!PeekOperator(":") && !PeekOperator("]")) {
      ATL_ASSIGN_OR_RETURN(part, Expression());
    }
    expr->operands.push_back(std::move(part));
    if (colons == 2 || !SkipOperator(":")) break;
    ++colons;
  }
  if (PeekOperator(",")) return Unsupported("tuple");
  ATL_RETURN_IF_ERROR(ExpectOperator("]"));
  if (colons > 0) {
    expr->kind = Expr::kSlice;
    expr->operands.resize(4);
  } else if (expr->operands[1] == nullptr) {
    return Error("expected an index, found ]");
  }
  return Finish(std::move(expr));
}

StatusOr<ExprPtr> ExprParser::FiltersAndTests(ExprPtr expr) {
  while (true) {
    if (SkipOperator("|")) {
      ExprPtr filter = Make(Expr::kFilter);
      ATL_ASSIGN_OR_RETURN(filter->name, ExpectIdentifier());
      if (!IsFilter(filter->name)) return Unsupported("filter " + filter->name);
      filter->operands.push_back(std::move(expr));
      if (PeekOperator("(")) ATL_RETURN_IF_ERROR(Arguments(filter.get()));
      ATL_ASSIGN_OR_RETURN(expr, Finish(std::move(filter)));
    } else if (SkipName("is")) {
      ATL_ASSIGN_OR_RETURN(expr, Test(std::move(expr)));
    } else if (PeekOperator("(")) {
      return Unsupported("a call of something that is no name");
    } else {
      return expr;
    }
  }
}

StatusOr<ExprPtr> ExprParser::Test(ExprPtr subject) {
  ExprPtr test = Make(Expr::kTest);
  const bool negated = SkipName("not");
  if (Peek().kind != Token::kName) return Error("expected a test's name, found " + Shown(Peek()));
  test->name = Next().text;
  if (!IsTest(test->name)) return Unsupported("test " + test->name);
  test->operands.push_back(std::move(subject));
  if (PeekOperator("(")) {
    ATL_RETURN_IF_ERROR(Arguments(test.get()));
  } else if (Peek().kind == Token::kString || Peek().kind == Token::kInteger || PeekOperator("[") ||
             PeekOperator("{") ||
             (Peek().kind == Token::kName && !PeekName("else") && !PeekName("or") &&
              !PeekName("and"))) {
    // Jinja2 takes what follows for the test's operand; `x is defined if y` is an error there, too.
    return Error("test " + test->name + " followed by " + Shown(Peek()));
  }
  ATL_ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  if (!negated) return test;
  ExprPtr inverse = Make(Expr::kNot);
  inverse->operands.push_back(std::move(test));
  return Finish(std::move(inverse));
}

Status ExprParser::Arguments(Expr* call) {
  ATL_RETURN_IF_ERROR(ExpectOperator("("));
  while (!SkipOperator(")")) {
    if (!call->arguments.empty()) {
      ATL_RETURN_IF_ERROR(ExpectOperator(","));
      if (SkipOperator(")")) break;
    }
    if (PeekOperator("*") || PeekOperator("**")) return Unsupported("argument " + Peek().text);
    std::string keyword;
    if (Peek().kind == Token::kName && Peek(1).kind == Token::kOperator && Peek(1).text == "=") {
      keyword = Next().text;
      Next();
    } else if (!call->arguments.empty() && !call->arguments.back().keyword.empty()) {
      return Error("an argument by place after one by name");
    }
    ATL_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    call->arguments.push_back({std::move(keyword), std::move(value)});
  }
  return absl::OkStatus();
}

}  // namespace atl::text::jinja
