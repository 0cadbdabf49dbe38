// SPDX-License-Identifier: Apache-2.0
#include "chat/interpreter.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "base/fail.h"
#include "chat/builtins.h"

namespace nfloat::chat {

struct Scope : std::enable_shared_from_this<Scope> {
  Entries names;
  std::shared_ptr<Scope> parent;
};

namespace {

constexpr int kMostFrames = 400;

class Interpreter {
 public:
  Interpreter(Entries variables, Budget& budget) : budget_(budget) {
    globals_->names = std::move(variables);
    for (const char* name : {"raise_exception", "strftime_now", "range", "dict", "namespace"})
      if (find(globals_->names, name, budget_) == nullptr)
        globals_->names.emplace_back(name, Value::function(name));
    scope_ = globals_;
  }

  std::string run(const Node& root) {
    execute(root);
    return std::move(out_);
  }

 private:
  enum class Flow : uint8_t { kOn, kBreak, kContinue };
  class Frame {
   public:
    explicit Frame(Interpreter& owner) : owner_(owner) {
      if (++owner_.frames_ > kMostFrames)
        owner_.budget_.refuse(fmt::format("nested more than {} levels deep", kMostFrames));
      owner_.budget_.steps();
    }
    ~Frame() { --owner_.frames_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Interpreter& owner_;
  };
  // A scope for the duration of a block.
  class Inner {
   public:
    Inner(Interpreter& owner, std::shared_ptr<Scope> parent) : owner_(owner), before_(owner.scope_) {
      owner_.scope_ = std::make_shared<Scope>();
      owner_.scope_->parent = std::move(parent);
    }
    ~Inner() { owner_.scope_ = before_; }
    Inner(const Inner&) = delete;
    Inner& operator=(const Inner&) = delete;

   private:
    Interpreter& owner_;
    std::shared_ptr<Scope> before_;
  };

  void emit(const std::string& text) {
    budget_.bytes(text.size());
    out_ += text;
  }
  Value lookup(const std::string& name) {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get())
      if (const Value* value = find(scope->names, name, budget_)) return *value;
    return Value::undefined(name);
  }
  void define(const std::string& name, Value value) {
    for (auto& entry : scope_->names)
      if (entry.first == name) {
        entry.second = std::move(value);
        return;
      }
    scope_->names.emplace_back(name, std::move(value));
  }
  void assign(const Node& target, const Value& value) {
    if (target.kind == Node::kName) return define(target.text, value);
    if (target.kind == Node::kAttribute) {
      const Value object = evaluate(*target.children[0]);
      if (object.kind != Value::kNamespace)
        budget_.refuse(
            fmt::format("only attributes of a namespace can be set, not of {}", kind_name(object)));
      for (auto& entry : *object.names)
        if (entry.first == target.text) {
          entry.second = value;
          return;
        }
      object.names->emplace_back(target.text, value);
      return;
    }
    const Items items = iterate(value, budget_);
    if (items.size() != target.children.size())
      budget_.refuse(fmt::format("{} values for {} names", items.size(), target.children.size()));
    for (size_t i = 0; i < items.size(); ++i) assign(*target.children[i], items[i]);
  }

  std::string captured(const Node& body) {
    std::string before = std::move(out_);
    out_.clear();
    execute(body);
    std::string text = std::move(out_);
    out_ = std::move(before);
    return text;
  }

  Value macro_here(const Node& node) {
    Value macro = Value::function(node.text, &node);
    budget_.steps(64);
    kept_.push_back(scope_);
    macro.scope = scope_.get();
    return macro;
  }

  Flow execute(const Node& node) {
    const Frame frame(*this);
    budget_.line = node.line;
    switch (node.kind) {
      case Node::kSequence:
        for (const NodePtr& child : node.children) {
          const Flow flow = execute(*child);
          if (flow != Flow::kOn) return flow;
        }
        break;
      case Node::kData:
        emit(node.text);
        break;
      case Node::kPrint:
        emit(to_text(evaluate(*node.children[0]), budget_));
        break;
      case Node::kSet:
        assign(*node.children[0], evaluate(*node.children[1]));
        break;
      case Node::kSetBlock: {
        const Inner inner(*this, scope_);
        Value text = Value::text(captured(*node.children[1]));
        const Outer outer(*this);
        assign(*node.children[0], text);
        break;
      }
      case Node::kIf:
        for (size_t i = 0; i < node.children.size(); i += 2) {
          if (i + 1 == node.children.size()) return execute(*node.children[i]);
          if (evaluate(*node.children[i]).truth()) return execute(*node.children[i + 1]);
        }
        break;
      case Node::kFor:
        loop(node, iterate(evaluate(*node.children[1]), budget_), 0);
        break;
      case Node::kBlock: {
        const Inner inner(*this, node.names.empty() ? globals_ : scope_);
        return execute(*node.children[0]);
      }
      case Node::kMacro:
        define(node.text, macro_here(node));
        break;
      case Node::kWith: {
        Items values;
        for (size_t i = 1; i + 1 < node.children.size(); i += 2)
          values.push_back(evaluate(*node.children[i]));
        const Inner inner(*this, scope_);
        for (size_t i = 0; i < values.size(); ++i) assign(*node.children[2 * i], values[i]);
        return execute(*node.children.back());
      }
      case Node::kCallBlock: {
        const Inner inner(*this, scope_);
        callers_.push_back(macro_here(*node.children[0]));
        emit(to_text(evaluate(*node.children[1]), budget_));
        callers_.pop_back();
        break;
      }
      case Node::kFilterBlock: {
        Inner inner(*this, scope_);
        piped_ = Value::text(captured(*node.children[1]));
        emit(to_text(evaluate(*node.children[0]), budget_));
        break;
      }
      case Node::kBreak:
        return Flow::kBreak;
      case Node::kContinue:
        return Flow::kContinue;
      default:
        evaluate(node);
    }
    return Flow::kOn;
  }
  // Back in the scope around, until the end of the block.
  class Outer {
   public:
    explicit Outer(Interpreter& owner) : owner_(owner), before_(owner.scope_) {
      owner_.scope_ = before_->parent;
    }
    ~Outer() { owner_.scope_ = before_; }
    Outer(const Outer&) = delete;
    Outer& operator=(const Outer&) = delete;

   private:
    Interpreter& owner_;
    std::shared_ptr<Scope> before_;
  };

  void loop(const Node& node, Items items, int64_t depth) {
    if (node.children[2]) {
      Items kept;
      for (Value& item : items) {
        const Inner inner(*this, scope_);
        assign(*node.children[0], item);
        if (evaluate(*node.children[2]).truth()) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty() && node.children[4]) {
      const Inner inner(*this, scope_);
      execute(*node.children[4]);
    }
    const std::shared_ptr<Scope> before = scope_;
    const auto count = static_cast<int64_t>(items.size());
    Value changed = Value::function("changed");
    changed.integer = static_cast<int64_t>(changes_.size());
    changes_.emplace_back();
    for (int64_t i = 0; i < count; ++i) {
      budget_.line = node.line;
      const Inner inner(*this, scope_);
      assign(*node.children[0], items[static_cast<size_t>(i)]);
      Value about = loop_value(items, i, depth, changed, budget_);
      if (!node.text.empty()) {
        // Called with other items, the loop begins again, in the scope around it.
        about.macro = &node;
        about.scope = before.get();
      }
      define("loop", std::move(about));
      if (execute(*node.children[3]) == Flow::kBreak) break;
    }
  }

  Arguments arguments_of(const Node& node) {
    Arguments result;
    const size_t named = node.names.size(), total = node.children.size();
    for (size_t i = 1; i < total; ++i) {
      Value value = evaluate(*node.children[i]);
      if (node.children[i]->kind == Node::kUnpack) {
        const Items items = iterate(value, budget_);
        result.positional.insert(result.positional.end(), items.begin(), items.end());
      } else if (i >= total - named && node.names[i - (total - named)] == "**") {
        if (value.kind != Value::kDict) budget_.refuse("** needs a dict");
        for (const auto& [key, one] : *value.dict) {
          if (key.kind != Value::kString) budget_.refuse("** needs a dict of texts");
          result.named.emplace_back(key.str(), one);
        }
      } else if (i < total - named)
        result.positional.push_back(std::move(value));
      else
        result.named.emplace_back(node.names[i - (total - named)], std::move(value));
    }
    return result;
  }

  bool mentions(const Node& node, std::string_view name) {
    budget_.steps();
    return (node.kind == Node::kName && node.text == name) ||
           std::any_of(node.children.begin(), node.children.end(),
                       [&](const NodePtr& child) { return child && mentions(*child, name); });
  }

  Value call_macro(const Value& function, const Arguments& arguments) {
    const Frame frame(*this);
    const Node& macro = *function.macro;
    const bool is_caller = function.str() == "caller";
    std::vector<Value> callers;
    if (!is_caller) callers.swap(callers_);
    const Inner inner(*this, function.scope->shared_from_this());
    if (!is_caller) define("caller", callers.empty() ? Value::undefined("caller") : callers.back());
    const bool more = mentions(*macro.children.back(), "varargs"),
               keywords = mentions(*macro.children.back(), "kwargs");
    Items rest;
    for (size_t i = macro.names.size(); i < arguments.positional.size(); ++i)
      rest.push_back(arguments.positional[i]);
    if (more) define("varargs", Value::items(std::move(rest), budget_, Value::kTuple));
    Entries others;
    if (arguments.positional.size() > macro.names.size() && !more)
      budget_.refuse(fmt::format("the macro '{}' takes {} arguments, not {}", macro.text, macro.names.size(),
                                 arguments.positional.size()));
    for (const auto& entry : arguments.named)
      if (std::find(macro.names.begin(), macro.names.end(), entry.first) == macro.names.end()) {
        others.push_back(entry);
        if (!keywords)
          budget_.refuse(fmt::format("the macro '{}' has no argument '{}'", macro.text, entry.first));
      }
    if (keywords) define("kwargs", Value::entries(std::move(others), budget_));
    for (size_t i = 0; i < macro.names.size(); ++i) {
      if (const Value* given = arguments.get(i, macro.names[i]))
        define(macro.names[i], *given);
      else
        define(macro.names[i],
               macro.children[i] ? evaluate(*macro.children[i]) : Value::undefined(macro.names[i]));
    }
    Value text = Value::text(captured(*macro.children.back()));
    if (!is_caller) callers.swap(callers_);
    return text;
  }

  Value call(const Node& node) {
    const Node& callee = *node.children[0];
    if (callee.kind == Node::kAttribute) {
      const Value object = evaluate(*callee.children[0]);
      if (is_method(object, callee.text))
        return call_method(object, callee.text, arguments_of(node), budget_);
      return call_value(attribute_of(object, callee.text, budget_), callee.text, arguments_of(node));
    }
    return call_value(evaluate(callee), callee.text, arguments_of(node));
  }
  // loop(items) of a recursive loop: the text of its body for these.
  Value loop_again(const Value& about, const Arguments& arguments) {
    const Frame frame(*this);
    arguments.check("loop", {"iterable"}, budget_);
    const Value* items = arguments.get(0, "iterable");
    if (items == nullptr) budget_.refuse("loop needs something to go through");
    const Inner inner(*this, about.scope->shared_from_this());
    std::string around = std::exchange(out_, "");
    loop(*about.macro, iterate(*items, budget_), attribute_of(about, "depth", budget_).integer);
    return Value::text(std::exchange(out_, std::move(around)));
  }
  Value call_value(const Value& function, const std::string& name, const Arguments& arguments) {
    if (function.kind == Value::kDict && function.macro != nullptr) return loop_again(function, arguments);
    if (function.kind == Value::kUndefined) budget_.refuse(fmt::format("'{}' is undefined", name));
    if (function.kind != Value::kFunction)
      budget_.refuse(fmt::format("'{}' is {}, not a function", name, kind_name(function)));
    if (function.macro != nullptr) return call_macro(function, arguments);
    if (function.str() == "changed") {
      std::optional<Items>& last = changes_.at(static_cast<size_t>(function.integer));
      const Value now = Value::items(arguments.positional, budget_);
      const bool changed = !last || !equal(Value::items(*last, budget_), now, budget_);
      last = arguments.positional;
      return Value::boolean(changed);
    }
    if (function.str() != "namespace") return call_function(function, arguments, budget_);
    Entries names;
    for (const Value& from : arguments.positional)
      for (const Value& key : iterate(from, budget_)) {
        if (from.kind != Value::kDict || key.kind != Value::kString)
          budget_.refuse("namespace takes dicts of texts");
        names.emplace_back(key.str(), *find(*from.dict, key, budget_));
      }
    names.insert(names.end(), arguments.named.begin(), arguments.named.end());
    budget_.steps(names.size() + 1);
    namespaces_.push_back(std::move(names));
    Value value;
    value.kind = Value::kNamespace;
    value.names = &namespaces_.back();
    return value;
  }

  bool compared(const std::string& sign, const Value& a, const Value& b) {
    if (sign == "==") return equal(a, b, budget_);
    if (sign == "!=") return !equal(a, b, budget_);
    if (sign == "in") return contains(b, a, budget_);
    if (sign == "not in") return !contains(b, a, budget_);
    const int order = compare(a, b, budget_);
    return sign == "<" ? order < 0 : sign == "<=" ? order <= 0 : sign == ">" ? order > 0 : order >= 0;
  }

  Value optional(const NodePtr& node) { return node ? evaluate(*node) : Value::none(); }

  Value evaluate(const Node& node) {
    const Frame frame(*this);
    budget_.line = node.line;
    const auto child = [&](size_t i) { return evaluate(*node.children[i]); };
    switch (node.kind) {
      case Node::kLiteral:
        return node.value.kind == Value::kUndefined ? piped_ : node.value;
      case Node::kName:
        return lookup(node.text);
      case Node::kAttribute:
        return attribute_of(child(0), node.text, budget_);
      case Node::kItem: {
        const Value object = child(0);
        return item_of(object, child(1), budget_);
      }
      case Node::kSlice: {
        const Value object = child(0), from = optional(node.children[1]), to = optional(node.children[2]);
        return slice(object, from, to, optional(node.children[3]), budget_);
      }
      case Node::kCall:
        return call(node);
      case Node::kFilter: {
        const Value value = child(0);
        return apply_filter(node.text, value, arguments_of(node), budget_);
      }
      case Node::kTest: {
        const Value value = child(0);
        return Value::boolean(apply_test(node.text, value, arguments_of(node), budget_));
      }
      case Node::kNot:
        return Value::boolean(!child(0).truth());
      case Node::kNegative:
      case Node::kPositive: {
        const Value value = child(0);
        if (!value.is_number()) budget_.refuse(fmt::format("{} has no sign", kind_name(value)));
        const bool negative = node.kind == Node::kNegative;
        if (value.kind == Value::kFloat) return Value::real(negative ? -value.number : value.number);
        return negative         ? binary("-", Value::integer_of(0), value, budget_)
               : value.is_big() ? value
                                : Value::integer_of(value.integer);
      }
      case Node::kAnd: {
        Value left = child(0);
        return left.truth() ? child(1) : left;
      }
      case Node::kOr: {
        Value left = child(0);
        return left.truth() ? left : child(1);
      }
      case Node::kBinary: {
        const Value left = child(0);
        return binary(node.text, left, child(1), budget_);
      }
      case Node::kCompare: {
        Value left = child(0);
        for (size_t i = 0; i < node.names.size(); ++i) {
          Value right = child(i + 1);
          if (!compared(node.names[i], left, right)) return Value::boolean(false);
          left = std::move(right);
        }
        return Value::boolean(true);
      }
      case Node::kTernary:
        if (child(0).truth()) return child(1);
        return node.children[2] ? child(2) : Value::undefined("");
      case Node::kList:
      case Node::kTuple: {
        Items items;
        for (size_t i = 0; i < node.children.size(); ++i) items.push_back(child(i));
        return Value::items(std::move(items), budget_,
                            node.kind == Node::kList ? Value::kList : Value::kTuple);
      }
      case Node::kUnpack:
        return child(0);
      case Node::kDict:
        return dict(node);
      default:
        budget_.refuse("a statement stands where a value is needed");
    }
  }

  Value dict(const Node& node) {
    Pairs pairs;
    for (size_t i = 0; i < node.children.size(); i += 2) {
      const Value key = evaluate(*node.children[i]);
      put(pairs, key, evaluate(*node.children[i + 1]), budget_);
    }
    return Value::pairs(std::move(pairs), budget_);
  }

  Budget& budget_;
  std::deque<Entries> namespaces_;
  std::shared_ptr<Scope> globals_ = std::make_shared<Scope>();
  std::shared_ptr<Scope> scope_;
  std::vector<std::shared_ptr<Scope>> kept_;  // of macros, which see where they were defined
  std::deque<std::optional<Items>> changes_;  // what loop.changed saw last
  std::vector<Value> callers_;
  Value piped_;
  std::string out_;
  int frames_ = 0;
};

}  // namespace

std::string render(const Node& root, Entries variables, Budget& budget) {
  return Interpreter(std::move(variables), budget).run(root);
}

}  // namespace nfloat::chat
