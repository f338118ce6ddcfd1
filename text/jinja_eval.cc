#include "text/jinja_eval.h"

#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_operators.h"

namespace atl::text::jinja {
namespace {

// A unit: an expression, a statement, an item of a list or 8 bytes of text gone through. A
// conversation of ten thousand messages takes about a million.
constexpr int64_t kMaxWork = 32'000'000;
constexpr int kMaxValueDepth = 64;
constexpr int kMaxNamespaceFields = 1000;

class Evaluator {
 public:
  explicit Evaluator(Dict variables) { scopes_.push_back(std::move(variables)); }

  Status Run(const Body& body);
  std::string TakeOutput() { return std::move(out_); }

 private:
  Status Run(const Statement& statement);
  Status Print(const Statement& statement);
  Status Set(const Statement& statement);
  Status If(const Statement& statement);
  Status For(const Statement& statement);
  Status AssignTargets(const Statement& statement, const Value& item);
  StatusOr<Value> Filtered(const Statement& statement, const Value& items);

  StatusOr<Value> Eval(const Expr& expr);
  StatusOr<Value> EvalUnchecked(const Expr& expr);
  StatusOr<Value> Name(const Expr& expr);
  StatusOr<Value> ListLiteral(const Expr& expr);
  StatusOr<Value> DictLiteral(const Expr& expr);
  StatusOr<Value> Call(const Expr& expr);
  StatusOr<Value> Slice(const Expr& expr);
  StatusOr<Value> ChainedComparison(const Expr& expr);
  StatusOr<Value> BinaryOperators(const Expr& expr);

  Status Charge(int64_t units) {
    work_ += units;
    return work_ <= kMaxWork ? absl::OkStatus()
                             : InvalidArgument("more than %d steps of work", kMaxWork);
  }
  // An operation on `value` goes through its bytes or items, but not into them.
  Status ChargeFor(const Value& value) {
    if (value.string() != nullptr) return Charge(value.weight());
    return Charge(value.list() != nullptr ? static_cast<int64_t>(value.list()->size()) : 1);
  }
  Status Append(const std::string& text) {
    if (out_.size() + text.size() > kMaxTextBytes)
      return InvalidArgument("more than %d bytes of output", kMaxTextBytes);
    out_ += text;
    return Charge(1 + static_cast<int64_t>(text.size() / 8));
  }
  void Assign(const std::string& name, Value value);

  std::vector<Dict> scopes_;  // the innermost last
  std::string out_;
  int64_t work_ = 0;
};

Status AtLine(const Status& status, int line) {
  // Only the innermost place is told.
  if (status.ok() || status.message().substr(0, 13) == "chat template") return status;
  return Annotate(status, absl::StrFormat("chat template line %d", line));
}

void Put(Dict* dict, const std::string& name, Value value) {
  for (auto& [key, old] : *dict) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  dict->emplace_back(name, std::move(value));
}

void Evaluator::Assign(const std::string& name, Value value) {
  Put(&scopes_.back(), name, std::move(value));
}

Status Evaluator::Run(const Body& body) {
  for (const Statement& statement : body)
    ATL_RETURN_IF_ERROR(AtLine(Run(statement), statement.line));
  return absl::OkStatus();
}

Status Evaluator::Run(const Statement& statement) {
  ATL_RETURN_IF_ERROR(Charge(1));
  switch (statement.kind) {
    case Statement::kText:
      return Append(statement.text);
    case Statement::kPrint:
      return Print(statement);
    case Statement::kSet:
      return Set(statement);
    case Statement::kIf:
      return If(statement);
    case Statement::kFor:
      return For(statement);
  }
  return Internal("statement of kind %d", static_cast<int>(statement.kind));
}

Status Evaluator::Print(const Statement& statement) {
  ATL_ASSIGN_OR_RETURN(const Value value, Eval(*statement.exprs[0]));
  if (value.string() != nullptr) return Append(*value.string());
  ATL_ASSIGN_OR_RETURN(const std::string text, ToText(value));
  return Append(text);
}

Status Evaluator::Set(const Statement& statement) {
  ATL_ASSIGN_OR_RETURN(Value value, Eval(*statement.exprs[0]));
  if (statement.names.size() == 1) {
    Assign(statement.names[0], std::move(value));
    return absl::OkStatus();
  }
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const Value* found = Find(*scope, statement.names[0]);
    if (found == nullptr) continue;
    Namespace* target = found->name_space();
    if (target == nullptr) break;
    if (value.name_space() != nullptr) return Unimplemented("a namespace in a namespace");
    if (target->fields.size() >= kMaxNamespaceFields)
      return InvalidArgument("namespace of %d fields", kMaxNamespaceFields);
    Put(&target->fields, statement.names[1], std::move(value));
    return absl::OkStatus();
  }
  return InvalidArgument("%s is no namespace: cannot set its attribute %s", statement.names[0],
                         statement.names[1]);
}

Status Evaluator::If(const Statement& statement) {
  for (size_t i = 0; i < statement.exprs.size(); ++i) {
    ATL_ASSIGN_OR_RETURN(const Value condition, Eval(*statement.exprs[i]));
    if (condition.Truth()) return Run(statement.bodies[i]);
  }
  return statement.bodies.size() > statement.exprs.size() ? Run(statement.bodies.back())
                                                          : absl::OkStatus();
}

// Sets the loop's variables in the innermost scope.
Status Evaluator::AssignTargets(const Statement& statement, const Value& item) {
  if (statement.names.size() == 1) {
    Assign(statement.names[0], item);
    return absl::OkStatus();
  }
  ATL_ASSIGN_OR_RETURN(const Value parts, ListOf(item));
  if (parts.list()->size() != statement.names.size()) {
    return InvalidArgument("%d values for %d names", parts.list()->size(), statement.names.size());
  }
  for (size_t i = 0; i < statement.names.size(); ++i)
    Assign(statement.names[i], (*parts.list())[i]);
  return absl::OkStatus();
}

// The items that the loop's condition lets through.
StatusOr<Value> Evaluator::Filtered(const Statement& statement, const Value& items) {
  if (statement.exprs[1] == nullptr) return items;
  List kept;
  for (const Value& item : *items.list()) {
    scopes_.emplace_back();
    Status status = AssignTargets(statement, item);
    StatusOr<Value> condition = status.ok() ? Eval(*statement.exprs[1]) : status;
    scopes_.pop_back();
    ATL_RETURN_IF_ERROR(condition.status());
    if (condition->Truth()) kept.push_back(item);
  }
  return Value(std::move(kept));
}

Status Evaluator::For(const Statement& statement) {
  ATL_ASSIGN_OR_RETURN(const Value subject, Eval(*statement.exprs[0]));
  ATL_ASSIGN_OR_RETURN(const Value all, ListOf(subject));
  ATL_RETURN_IF_ERROR(ChargeFor(all));
  ATL_ASSIGN_OR_RETURN(const Value items, Filtered(statement, all));
  if (items.list()->empty()) {
    scopes_.emplace_back();
    const Status status = Run(statement.bodies[1]);
    scopes_.pop_back();
    return status;
  }
  const std::shared_ptr<const List> list = items.shared_list();
  for (size_t i = 0; i < list->size(); ++i) {
    // Every turn has a scope of its own: what is set there does not last.
    scopes_.emplace_back();
    Status status = Charge(1);
    if (status.ok()) status = AssignTargets(statement, (*list)[i]);
    if (status.ok()) {
      Assign("loop", Value(Loop{list, i, items.depth()}));
      status = Run(statement.bodies[0]);
    }
    scopes_.pop_back();
    ATL_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

StatusOr<Value> Evaluator::Eval(const Expr& expr) {
  StatusOr<Value> value = EvalUnchecked(expr);
  if (!value.ok()) return AtLine(value.status(), expr.line);
  ATL_RETURN_IF_ERROR(AtLine(Charge(1), expr.line));
  if (value->depth() > kMaxValueDepth) {
    return AtLine(InvalidArgument("lists nested deeper than %d", kMaxValueDepth), expr.line);
  }
  return value;
}

StatusOr<Value> Evaluator::EvalUnchecked(const Expr& expr) {
  switch (expr.kind) {
    case Expr::kConstant:
      return expr.value;
    case Expr::kName:
      return Name(expr);
    case Expr::kList:
      return ListLiteral(expr);
    case Expr::kDict:
      return DictLiteral(expr);
    case Expr::kSlice:
      return Slice(expr);
    case Expr::kFunction:
    case Expr::kMethod:
    case Expr::kFilter:
    case Expr::kTest:
      return Call(expr);
    case Expr::kComparison:
      return ChainedComparison(expr);
    case Expr::kItem:
    case Expr::kArithmetic:
      return BinaryOperators(expr);
    default:
      break;
  }
  ATL_ASSIGN_OR_RETURN(
      Value first, Eval(expr.kind == Expr::kConditional ? *expr.operands[1] : *expr.operands[0]));
  switch (expr.kind) {
    case Expr::kAttribute:
      return GetAttribute(first, expr.name);
    case Expr::kNot:
      return Value(!first.Truth());
    case Expr::kNegative:
      return Arithmetic("-", Value(int64_t{0}), first);
    case Expr::kAnd:
      return first.Truth() ? Eval(*expr.operands[1]) : first;
    case Expr::kOr:
      return first.Truth() ? first : Eval(*expr.operands[1]);
    case Expr::kConditional:
      if (first.Truth()) return Eval(*expr.operands[0]);
      if (expr.operands.size() > 2) return Eval(*expr.operands[2]);
      return Value::MakeUndefined("an if without else");
    default:
      return Internal("expression of kind %d", static_cast<int>(expr.kind));
  }
}

StatusOr<Value> Evaluator::Name(const Expr& expr) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const Value* found = Find(*scope, expr.name)) return *found;
  }
  return Value::MakeUndefined("'" + expr.name + "'");
}

StatusOr<Value> Evaluator::ListLiteral(const Expr& expr) {
  List list;
  for (const ExprPtr& operand : expr.operands) {
    ATL_ASSIGN_OR_RETURN(Value item, Eval(*operand));
    if (item.name_space() != nullptr) return Unimplemented("a namespace in a list");
    list.push_back(std::move(item));
  }
  return Value(std::move(list));
}

StatusOr<Value> Evaluator::DictLiteral(const Expr& expr) {
  Dict dict;
  for (size_t i = 0; i < expr.operands.size(); i += 2) {
    ATL_ASSIGN_OR_RETURN(const Value key, Eval(*expr.operands[i]));
    ATL_ASSIGN_OR_RETURN(Value value, Eval(*expr.operands[i + 1]));
    if (key.string() == nullptr) return Unimplemented("a dict's key that is a %s", key.TypeName());
    if (value.name_space() != nullptr) return Unimplemented("a namespace in a dict");
    Put(&dict, *key.string(), std::move(value));
  }
  return Value(std::move(dict));
}

StatusOr<Value> Evaluator::Call(const Expr& expr) {
  Value subject;
  if (!expr.operands.empty()) {
    ATL_ASSIGN_OR_RETURN(subject, Eval(*expr.operands[0]));
  }
  CallArguments arguments;
  for (const auto& [keyword, expression] : expr.arguments) {
    ATL_ASSIGN_OR_RETURN(Value value, Eval(*expression));
    if (value.name_space() != nullptr) return Unimplemented("a namespace as argument");
    if (keyword.empty()) {
      arguments.by_place.push_back(std::move(value));
    } else {
      Put(&arguments.by_name, keyword, std::move(value));
    }
  }
  if (expr.kind == Expr::kTest) {
    ATL_ASSIGN_OR_RETURN(const bool passed, ApplyTest(subject, expr.name, arguments));
    return Value(passed);
  }
  ATL_RETURN_IF_ERROR(expr.name == "tojson" ? Charge(subject.weight()) : ChargeFor(subject));
  StatusOr<Value> result = Internal("no call");
  if (expr.kind == Expr::kFunction) result = CallFunction(expr.name, arguments);
  if (expr.kind == Expr::kMethod) result = CallMethod(subject, expr.name, arguments);
  if (expr.kind == Expr::kFilter) result = ApplyFilter(subject, expr.name, arguments);
  ATL_RETURN_IF_ERROR(result.status());
  ATL_RETURN_IF_ERROR(ChargeFor(*result));
  return result;
}

StatusOr<Value> Evaluator::Slice(const Expr& expr) {
  Value values[4];
  for (int i = 0; i < 4; ++i) {
    if (expr.operands[i] == nullptr) continue;
    ATL_ASSIGN_OR_RETURN(values[i], Eval(*expr.operands[i]));
  }
  ATL_RETURN_IF_ERROR(ChargeFor(values[0]));
  return GetSlice(values[0], &values[1], &values[2], &values[3]);
}

StatusOr<Value> Evaluator::ChainedComparison(const Expr& expr) {
  ATL_ASSIGN_OR_RETURN(Value left, Eval(*expr.operands[0]));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    ATL_ASSIGN_OR_RETURN(Value right, Eval(*expr.operands[i + 1]));
    ATL_RETURN_IF_ERROR(Charge(std::max(left.weight(), right.weight())));
    ATL_ASSIGN_OR_RETURN(const bool holds, Compare(expr.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

StatusOr<Value> Evaluator::BinaryOperators(const Expr& expr) {
  ATL_ASSIGN_OR_RETURN(Value value, Eval(*expr.operands[0]));
  for (size_t i = 1; i < expr.operands.size(); ++i) {
    ATL_ASSIGN_OR_RETURN(const Value operand, Eval(*expr.operands[i]));
    if (expr.kind == Expr::kArithmetic || value.string() != nullptr)
      ATL_RETURN_IF_ERROR(ChargeFor(value));
    StatusOr<Value> next =
        expr.kind == Expr::kItem ? GetItem(value, operand) : Arithmetic(expr.name, value, operand);
    ATL_RETURN_IF_ERROR(next.status());
    value = *std::move(next);
    if (expr.kind == Expr::kArithmetic) ATL_RETURN_IF_ERROR(ChargeFor(value));
  }
  return value;
}

}  // namespace

StatusOr<std::string> Evaluate(const Body& body,
                               std::vector<std::pair<std::string, Value>> variables) {
  Evaluator evaluator(std::move(variables));
  ATL_RETURN_IF_ERROR(evaluator.Run(body));
  return evaluator.TakeOutput();
}

}  // namespace atl::text::jinja
