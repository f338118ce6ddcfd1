// The syntax tree of a chat template.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/jinja_value.h"

namespace atl::text::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum Kind {
    kConstant,   // value
    kName,       // name
    kList,       // operands
    kDict,       // operands: key, value, key, value
    kAttribute,  // operands[0] . name
    kItem,       // operands[0] [ operands[1] ]
    kSlice,      // operands[0] [ operands[1] : [2] : [3] ], absent ones null
    kFunction,   // name ( arguments )
    kMethod,     // operands[0] . name ( arguments )
    kFilter,     // operands[0] | name ( arguments )
    kTest,       // operands[0] is name ( arguments )
    kNot,
    kNegative,
    kAnd,
    kOr,
    kArithmetic,   // operands[0] name operands[1]; ~ has any number of operands
    kComparison,   // operands[0] operators[0] operands[1] operators[1] ...
    kConditional,  // operands[0] if operands[1] else operands[2], which may be absent
  };
  struct Argument {
    std::string keyword;  // "": by place
    ExprPtr value;
  };
  Kind kind;
  int line;
  int depth = 1;  // of the tree below; bounded by the parser
  std::string name;
  Value value;
  std::vector<ExprPtr> operands;
  std::vector<Argument> arguments;
  std::vector<std::string> operators;  // "not in" is one
};

struct Statement;
using Body = std::vector<Statement>;

struct Statement {
  enum Kind { kText, kPrint, kSet, kIf, kFor };
  Kind kind;
  int line;
  std::string text;                // kText
  std::vector<std::string> names;  // kSet: name, or namespace and attribute; kFor: the targets
  std::vector<ExprPtr> exprs;      // kPrint, kSet: the value; kIf: the conditions; kFor: what to go
                                   // through, the filter or null
  std::vector<Body> bodies;        // kIf: one a condition, and the else's; kFor: the loop's and the
                                   // else's (may be empty)
};

}  // namespace atl::text::jinja
