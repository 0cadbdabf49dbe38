// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <set>

#include "chat/token_reader.h"

namespace nfloat::chat {
namespace {

constexpr int kMostHeight = 200;

class Parser : private TokenReader {
 public:
  using TokenReader::TokenReader;

  NodePtr run() {
    NodePtr all = body({});
    if (now().kind != Token::kFinish) refuse(fmt::format("unexpected '{}'", now().text));
    return all;
  }

 private:
  using Words = std::initializer_list<std::string_view>;

  NodePtr node(Node::Kind kind, std::string text = "") const {
    auto result = std::make_unique<Node>();
    result->kind = kind;
    result->line = now().line;
    result->text = std::move(text);
    return result;
  }
  // Heights bound the recursion of everything that walks the tree.
  void adopt(Node& parent, NodePtr child) const {
    if (child) {
      parent.height = std::max(parent.height, child->height + 1);
      if (parent.height > kMostHeight) refuse(fmt::format("nested more than {} levels deep", kMostHeight));
    }
    parent.children.push_back(std::move(child));
  }
  template <typename... Children>
  NodePtr with(Node::Kind kind, std::string text, Children... children) const {
    NodePtr result = node(kind, std::move(text));
    (adopt(*result, std::move(children)), ...);
    return result;
  }
  struct Depth {
    explicit Depth(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMostHeight)
        parser_.refuse(fmt::format("nested more than {} levels deep", kMostHeight));
    }
    ~Depth() { --parser_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;
    Parser& parser_;
  };

  bool at_block(Words ends) const {
    return now().kind == Token::kBlock &&
           std::any_of(ends.begin(), ends.end(), [&](std::string_view e) { return next().text == e; });
  }

  // Statements up to the block that begins with one of `ends`, which is left, or to the end of the file.
  NodePtr body(Words ends) {
    const Depth depth(*this);
    NodePtr all = node(Node::kSequence);
    while (now().kind != Token::kFinish && !at_block(ends)) {
      if (now().kind == Token::kData) {
        adopt(*all, node(Node::kData, now().text));
        step();
      } else if (now().kind == Token::kPrint) {
        step();
        adopt(*all, with(Node::kPrint, "", tuple(true)));
        end();
      } else if (now().kind == Token::kBlock) {
        step();
        if (NodePtr one = statement()) adopt(*all, std::move(one));
      } else {
        refuse(fmt::format("unexpected '{}'", shown()));
      }
    }
    if (ends.size() > 0 && now().kind == Token::kFinish)
      refuse(fmt::format("'{}' is missing", *(ends.end() - 1)));
    return all;
  }
  void close(std::string_view word) {
    step();
    if (!take_word(word)) refuse(fmt::format("expected '{}'", word));
    end();
  }

  NodePtr statement() {
    const std::string keyword = name();
    if (keyword == "set") return set();
    if (keyword == "if") return condition();
    if (keyword == "for") return loop();
    if (keyword == "macro") return macro();
    if (keyword == "break" || keyword == "continue") {
      end();
      return node(keyword == "break" ? Node::kBreak : Node::kContinue);
    }
    if (keyword == "generation") {
      end();
      NodePtr inside = body({"endgeneration"});
      close("endgeneration");
      return inside;
    }
    if (keyword == "filter") {
      NodePtr filter = filters(with(Node::kLiteral, ""), true);
      end();
      NodePtr inside = body({"endfilter"});
      close("endfilter");
      return with(Node::kFilterBlock, "", std::move(filter), std::move(inside));
    }
    if (keyword == "with") return with_block();
    if (keyword == "block") return block();
    if (keyword == "call") {
      NodePtr caller = node(Node::kMacro, "caller");
      if (take("(")) parameters(*caller);
      NodePtr call = expression();
      if (call->kind != Node::kCall) refuse("'call' needs a call of a macro");
      end();
      adopt(*caller, body({"endcall"}));
      close("endcall");
      return with(Node::kCallBlock, "", std::move(caller), std::move(call));
    }
    fail(ErrorCode::kUnsupported, "{}, line {}: the statement '{}' is not of chat templates", source_,
         now().line, keyword);
  }

  // with a = 1, b = 2: a scope of its own; the values do not see the new names.
  NodePtr with_block() {
    NodePtr all = node(Node::kWith);
    while (now().kind != Token::kEnd) {
      if (!all->children.empty()) expect(",");
      adopt(*all, one_target());
      expect("=");
      adopt(*all, expression());
    }
    end();
    adopt(*all, body({"endwith"}));
    close("endwith");
    return all;
  }

  // A named part that no other template replaces: it stands where it is written.
  NodePtr block() {
    NodePtr all = node(Node::kBlock, name());
    if (take_word("scoped")) all->names.emplace_back("scoped");
    if (!blocks_.insert(all->text).second) refuse(fmt::format("there are two blocks '{}'", all->text));
    end();
    adopt(*all, body({"endblock"}));
    step();
    step();
    take_word(all->text);
    end();
    return all;
  }

  NodePtr target() {
    NodePtr first = one_target();
    if (!symbol(",")) return first;
    NodePtr all = with(Node::kTuple, "", std::move(first));
    while (take(",")) adopt(*all, one_target());
    return all;
  }
  NodePtr one_target() {
    if (take("(")) {
      NodePtr inside = target();
      expect(")");
      return inside;
    }
    NodePtr result = node(Node::kName, name());
    if (take(".")) result = with(Node::kAttribute, name(), std::move(result));
    return result;
  }

  NodePtr set() {
    NodePtr where = target();
    if (take("=")) {
      NodePtr value = tuple(true);
      end();
      return with(Node::kSet, "", std::move(where), std::move(value));
    }
    NodePtr filter = symbol("|") ? filters(with(Node::kLiteral, ""), false) : nullptr;
    end();
    NodePtr inside = body({"endset"});
    close("endset");
    if (filter) inside = with(Node::kFilterBlock, "", std::move(filter), std::move(inside));
    return with(Node::kSetBlock, "", std::move(where), std::move(inside));
  }

  NodePtr condition() {
    NodePtr all = node(Node::kIf);
    adopt(*all, tuple(false));
    end();
    adopt(*all, body({"elif", "else", "endif"}));
    while (true) {
      step();
      const std::string keyword = name();
      if (keyword == "elif") {
        adopt(*all, tuple(false));
        end();
        adopt(*all, body({"elif", "else", "endif"}));
      } else if (keyword == "else") {
        end();
        adopt(*all, body({"endif"}));
      } else {
        end();
        return all;
      }
    }
  }

  NodePtr loop() {
    NodePtr where = target();
    if (!take_word("in")) refuse(fmt::format("expected 'in', found '{}'", shown()));
    NodePtr items = tuple(false);
    NodePtr when = take_word("if") ? expression() : nullptr;
    const bool recursive = take_word("recursive");
    end();
    NodePtr inside = body({"else", "endfor"});
    NodePtr otherwise;
    if (next().text == "else") {
      close("else");
      otherwise = body({"endfor"});
    }
    close("endfor");
    return with(Node::kFor, recursive ? "recursive" : "", std::move(where), std::move(items), std::move(when),
                std::move(inside), std::move(otherwise));
  }

  void parameters(Node& macro) {
    while (!take(")")) {
      macro.names.push_back(name());
      adopt(macro, take("=") ? expression() : nullptr);
      if (!symbol(")")) expect(",");
    }
  }
  NodePtr macro() {
    NodePtr all = node(Node::kMacro, name());
    expect("(");
    parameters(*all);
    end();
    adopt(*all, body({"endmacro"}));
    close("endmacro");
    return all;
  }

  // An expression, or a tuple of several without parentheses.
  NodePtr tuple(bool ternary) {
    NodePtr first = ternary ? expression() : either();
    if (!symbol(",")) return first;
    NodePtr all = with(Node::kTuple, "", std::move(first));
    while (take(",")) {
      if (now().kind == Token::kEnd || symbol(")")) break;
      adopt(*all, ternary ? expression() : either());
    }
    return all;
  }

  NodePtr expression() {
    const Depth depth(*this);
    NodePtr value = either();
    while (take_word("if")) {
      NodePtr when = either();
      NodePtr other = take_word("else") ? expression() : nullptr;
      value = with(Node::kTernary, "", std::move(when), std::move(value), std::move(other));
    }
    return value;
  }
  NodePtr either() {
    NodePtr left = both();
    while (take_word("or")) left = with(Node::kOr, "", std::move(left), both());
    return left;
  }
  NodePtr both() {
    NodePtr left = negated();
    while (take_word("and")) left = with(Node::kAnd, "", std::move(left), negated());
    return left;
  }
  NodePtr negated() {
    const Depth depth(*this);
    if (take_word("not")) return with(Node::kNot, "", negated());
    return comparison();
  }
  NodePtr comparison() {
    NodePtr first = sum();
    NodePtr all;
    while (true) {
      std::string sign;
      if (word("in")) {
        sign = "in";
      } else if (word("not") && next().kind == Token::kName && next().text == "in") {
        step();
        sign = "not in";
      } else if (symbol("==") || symbol("!=") || symbol("<") || symbol("<=") || symbol(">") || symbol(">=")) {
        sign = now().text;
      } else {
        return all ? std::move(all) : std::move(first);
      }
      step();
      if (!all) all = with(Node::kCompare, "", std::move(first));
      all->names.push_back(sign);
      adopt(*all, sum());
    }
  }
  NodePtr binary(Words signs, NodePtr (Parser::*operand)()) {
    NodePtr left = (this->*operand)();
    while (now().kind == Token::kSymbol && std::find(signs.begin(), signs.end(), now().text) != signs.end()) {
      const std::string sign = now().text;
      step();
      left = with(Node::kBinary, sign, std::move(left), (this->*operand)());
    }
    return left;
  }
  NodePtr sum() { return binary({"+", "-"}, &Parser::joined); }
  NodePtr joined() { return binary({"~"}, &Parser::product); }
  NodePtr product() { return binary({"*", "/", "//", "%"}, &Parser::power); }
  NodePtr power() { return binary({"**"}, &Parser::unary_filtered); }
  NodePtr unary_filtered() { return unary(true); }
  NodePtr unary(bool filtered) {
    const Depth depth(*this);
    NodePtr value;
    if (take("-"))
      value = with(Node::kNegative, "", unary(false));
    else if (take("+"))
      value = with(Node::kPositive, "", unary(false));
    else
      value = postfix(primary());
    return filtered ? filters(std::move(value), false) : std::move(value);
  }

  NodePtr literal(Value value) {
    NodePtr result = node(Node::kLiteral);
    result->value = std::move(value);
    step();
    return result;
  }
  NodePtr primary() {
    const Token& token = now();
    if (token.kind == Token::kString) {
      std::string text = token.text;
      while (next().kind == Token::kString) {
        step();
        text += now().text;
      }
      return literal(Value::text(std::move(text)));
    }
    if (token.kind == Token::kInt || token.kind == Token::kFloat) return number(token);
    if (token.kind == Token::kName) {
      if (token.text == "true" || token.text == "True") return literal(Value::boolean(true));
      if (token.text == "false" || token.text == "False") return literal(Value::boolean(false));
      if (token.text == "none" || token.text == "None") return literal(Value::none());
      return node(Node::kName, name());
    }
    if (take("(")) {
      if (take(")")) return node(Node::kTuple);
      NodePtr inside = tuple(true);
      expect(")");
      return inside;
    }
    if (take("[")) {
      NodePtr all = node(Node::kList);
      while (!take("]")) {
        adopt(*all, expression());
        if (!symbol("]")) expect(",");
      }
      return all;
    }
    if (take("{")) {
      NodePtr all = node(Node::kDict);
      while (!take("}")) {
        adopt(*all, expression());
        expect(":");
        adopt(*all, expression());
        if (!symbol("}")) expect(",");
      }
      return all;
    }
    refuse(fmt::format("expected an expression, found '{}'", shown()));
  }
  NodePtr number(const Token& token) {
    const char* first = token.text.data();
    const char* last = first + token.text.size();
    if (token.kind == Token::kFloat) {
      double real = 0;
      if (std::from_chars(first, last, real).ec != std::errc()) refuse("the number is out of range");
      return literal(Value::real(real));
    }
    if (token.text.size() > 4300) refuse("the number has more than 4300 digits");
    return literal(Value::whole(token.text));
  }

  NodePtr postfix(NodePtr value) {
    while (true) {
      if (take(".")) {
        std::string text = now().text;
        if (now().kind == Token::kInt) {
          NodePtr index = number(now());
          value = with(Node::kItem, "", std::move(value), std::move(index));
          continue;
        }
        text = name();
        value = with(Node::kAttribute, std::move(text), std::move(value));
      } else if (take("[")) {
        value = subscript(std::move(value));
      } else if (symbol("(")) {
        value = with(Node::kCall, "", std::move(value));
        arguments(*value);
      } else {
        return value;
      }
    }
  }
  NodePtr subscript(NodePtr value) {
    NodePtr parts[3];
    int colons = 0;
    while (!symbol("]")) {
      if (take(":")) {
        if (++colons > 2) refuse("a slice has at most three parts");
      } else {
        if (parts[colons]) expect("]");
        parts[colons] = expression();
      }
    }
    expect("]");
    if (colons == 0) {
      if (!parts[0]) refuse("an index is missing");
      return with(Node::kItem, "", std::move(value), std::move(parts[0]));
    }
    return with(Node::kSlice, "", std::move(value), std::move(parts[0]), std::move(parts[1]),
                std::move(parts[2]));
  }
  void arguments(Node& call) {
    expect("(");
    while (!take(")")) {
      if (take("**")) {
        call.names.emplace_back("**");
      } else if (symbol("*")) {
        step();
        adopt(call, with(Node::kUnpack, "", expression()));
        std::rotate(call.children.end() - static_cast<std::ptrdiff_t>(call.names.size()) - 1,
                    call.children.end() - 1, call.children.end());
        if (!symbol(")")) expect(",");
        continue;
      } else if (now().kind == Token::kName && next().kind == Token::kSymbol && next().text == "=") {
        call.names.push_back(name());
        step();
      } else if (!call.names.empty()) {
        refuse("a positional argument follows a named one");
      }
      adopt(call, expression());
      if (!symbol(")")) expect(",");
    }
  }

  NodePtr filters(NodePtr value, bool first_without_bar) {
    while (true) {
      if (first_without_bar || take("|")) {
        first_without_bar = false;
        value = with(Node::kFilter, name(), std::move(value));
        if (symbol("(")) arguments(*value);
      } else if (take_word("is")) {
        const bool inverse = take_word("not");
        value = with(Node::kTest, name(), std::move(value));
        if (symbol("("))
          arguments(*value);
        else if (now().kind == Token::kString || now().kind == Token::kInt || now().kind == Token::kFloat ||
                 symbol("[") || symbol("{") ||
                 (now().kind == Token::kName && !word("and") && !word("or") && !word("else") && !word("if") &&
                  !word("is") && !word("in") && !word("not")))
          adopt(*value, postfix(primary()));
        if (inverse) value = with(Node::kNot, "", std::move(value));
      } else if (symbol("(") && value->kind == Node::kFilter) {
        value = with(Node::kCall, "", std::move(value));
        arguments(*value);
      } else {
        return value;
      }
    }
  }

  int depth_ = 0;
  std::set<std::string> blocks_;
};

}  // namespace

NodePtr parse(std::string_view text, const std::string& source) {
  return Parser(lex(text, source), source).run();
}

}  // namespace nfloat::chat
