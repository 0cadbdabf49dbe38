// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_SYNTAX_H_
#define NFLOAT_CHAT_SYNTAX_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "chat/value.h"

namespace nfloat::chat {

struct Token {
  // kPrint and kBlock open a tag, kEnd closes it.
  enum Kind : uint8_t { kData, kPrint, kBlock, kEnd, kName, kString, kInt, kFloat, kSymbol, kFinish };
  Kind kind;
  std::string text;
  int line;
};

// Cuts a template as Jinja does with trim_blocks and lstrip_blocks. Throws kMalformedFile with the line.
std::vector<Token> lex(std::string_view text, const std::string& source);

struct Node {
  enum Kind : uint8_t {
    // statements
    kSequence,     // children
    kData,         // text
    kPrint,        // child
    kSet,          // target, value
    kSetBlock,     // target, body
    kIf,           // condition, body, condition, body, ... [else body]
    kFor,          // target, items, condition or null, body, else body or null; text: recursive or empty
    kBlock,        // text: name; names: scoped or none; body
    kMacro,        // text: name; names: parameters; children: defaults (null where none), then the body
    kCallBlock,    // macro of the body, call
    kFilterBlock,  // filter with a kLiteral as its value, body
    kWith,         // target, value, target, value, ..., body
    kBreak,
    kContinue,
    // expressions
    kLiteral,    // value
    kName,       // text
    kAttribute,  // child; text
    kItem,       // child, index
    kSlice,      // child, from, to, step; null where left out
    kCall,       // callee, positional arguments; then as many as names: keyword arguments
    kUnpack,     // child: *child among positional arguments; the name "**" is that of **child
    kFilter,     // text; child, arguments as of kCall
    kTest,       // text; child, arguments as of kCall
    kNot,
    kNegative,
    kPositive,
    kAnd,
    kOr,
    kBinary,   // text: operator
    kCompare,  // names: operators; children: one operand more
    kTernary,  // condition, value, other or null
    kList,
    kTuple,
    kDict  // key, value, key, value, ...
  };
  Kind kind;
  int line = 0;
  int height = 1;
  std::string text;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Node>> children;
  Value value;
};
using NodePtr = std::unique_ptr<Node>;

// Throws kMalformedFile with the line; kUnsupported for a statement this language part lacks.
NodePtr parse(std::string_view text, const std::string& source);

}  // namespace nfloat::chat

#endif  // NFLOAT_CHAT_SYNTAX_H_
