// SPDX-License-Identifier: Apache-2.0
#include "nfloat/grammar.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "base/json.h"
#include "grammar/automaton.h"
#include "grammar/regex.h"
#include "grammar/schema.h"

namespace nfloat {

using grammar::Automaton;
using grammar::Builder;
using grammar::Piece;

struct Grammar::State {
  explicit State(grammar::Net net) : automaton(std::move(net)) {}
  Automaton automaton;
};

namespace {

constexpr size_t kMostForced = 128;  // bytes of a text without a choice that are looked at

Json parsed_schema(std::string_view text) {
  try {
    return Json::parse(text, {.depth = 64, .values = 200000});
  } catch (const JsonError& error) {
    fail(ErrorCode::kInvalidArgument, "the schema is not JSON: {}", error.what());
  }
}

std::shared_ptr<Grammar::State> finished(Builder& builder, Piece whole) {
  return std::make_shared<Grammar::State>(builder.finish(whole));
}

}  // namespace

Grammar Grammar::from_json_schema(std::string_view schema) {
  const Json json = parsed_schema(schema);
  Builder builder;
  const Piece whole = grammar::SchemaCompiler(builder, json, "schema ").compile();
  return Grammar(finished(builder, whole));
}

Grammar Grammar::json_object() {
  return from_json_schema(R"({"type": "object"})");
}

Grammar Grammar::from_regex(std::string_view expression) {
  Builder builder;
  const Piece whole = grammar::regex(builder, expression, grammar::Spelling::kPlain, true, "regex");
  return Grammar(finished(builder, whole));
}

Grammar Grammar::from_functions(std::span<const FunctionSchema> functions) {
  Builder builder;
  std::vector<Piece> calls;
  for (const FunctionSchema& function : functions) {
    const Json json =
        function.parameters.empty() ? Json{{"type", "object"}} : parsed_schema(function.parameters);
    const std::string head = "{\"name\": " + Json(function.name).dump() + ", \"arguments\": ";
    // Arguments are an object, also where the schema does not say so.
    const Json schema = json.is_object() && json.empty() ? Json{{"type", "object"}} : json;
    const Piece arguments =
        grammar::SchemaCompiler(builder, schema, "parameters of " + function.name + " ").compile();
    calls.push_back(builder.sequence({builder.literal(head), arguments, builder.literal("}")}));
  }
  const Piece whole = builder.either(calls);
  return Grammar(finished(builder, whole));
}

struct GrammarVocabulary::State {
  // The tree of all tokens' bytes, each node before its children: where the next node is that does not begin
  // with its text, and the first token of that text.
  struct Node {
    int32_t skip, token;
    uint16_t depth;
    uint8_t byte;
  };
  std::vector<Node> nodes;
  std::vector<int32_t> same;  // of each token: another one with the same bytes, or -1
  std::vector<std::string> texts;
  int32_t deepest = 0;

  // The longest token that `text` begins with; -1: none.
  int32_t longest(std::string_view text) const noexcept {
    int32_t found = -1;
    const auto count = static_cast<int32_t>(nodes.size());
    int32_t end = count;
    for (int32_t at = 0; at < end && !text.empty();) {
      const Node& node = nodes[static_cast<size_t>(at)];
      if (node.byte != static_cast<uint8_t>(text[0])) {
        at = node.skip;
        continue;
      }
      if (node.token >= 0) found = node.token;
      text.remove_prefix(1);
      end = node.skip;
      ++at;
    }
    return found;
  }
};

GrammarVocabulary::GrammarVocabulary(const std::vector<std::string>& tokens) {
  auto state = std::make_shared<State>();
  state->texts = tokens;
  state->same.assign(tokens.size(), -1);
  std::vector<int32_t> order;
  for (size_t i = 0; i < tokens.size(); ++i)
    if (!tokens[i].empty() && tokens[i].size() < UINT16_MAX) order.push_back(static_cast<int32_t>(i));
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return std::pair(std::string_view(tokens[static_cast<size_t>(a)]), a) <
           std::pair(std::string_view(tokens[static_cast<size_t>(b)]), b);
  });
  std::vector<int32_t> open;  // nodes on the way to the last one
  std::string_view before;
  for (const int32_t token : order) {
    const std::string_view text = tokens[static_cast<size_t>(token)];
    const auto common = static_cast<size_t>(
        std::mismatch(before.begin(), before.end(), text.begin(), text.end()).first - before.begin());
    if (common == text.size()) {  // equal, as tokens are in order
      int32_t last = state->nodes[static_cast<size_t>(open.back())].token;
      while (state->same[static_cast<size_t>(last)] >= 0) last = state->same[static_cast<size_t>(last)];
      state->same[static_cast<size_t>(last)] = token;
      continue;
    }
    for (; open.size() > common; open.pop_back())
      state->nodes[static_cast<size_t>(open.back())].skip = static_cast<int32_t>(state->nodes.size());
    for (size_t i = common; i < text.size(); ++i) {
      open.push_back(static_cast<int32_t>(state->nodes.size()));
      state->nodes.push_back({0, -1, static_cast<uint16_t>(i), static_cast<uint8_t>(text[i])});
    }
    state->nodes.back().token = token;
    state->deepest = std::max(state->deepest, static_cast<int32_t>(text.size()));
    before = text;
  }
  for (const int32_t node : open)
    state->nodes[static_cast<size_t>(node)].skip = static_cast<int32_t>(state->nodes.size());
  state_ = std::move(state);
}

GrammarMatcher::GrammarMatcher(const Grammar& grammar, const GrammarVocabulary& vocabulary,
                               std::vector<int32_t> end_tokens)
    : grammar_(grammar),
      vocabulary_(vocabulary),
      end_tokens_(std::move(end_tokens)),
      at_(grammar.state_->automaton.start()) {}

std::span<const uint64_t> GrammarMatcher::allowed() {
  Automaton& automaton = grammar_.state_->automaton;
  const GrammarVocabulary::State& words = *vocabulary_.state_;
  mask_.assign((words.texts.size() + 63) / 64, 0);
  if (at_ == Automaton::kDead) return mask_;
  if (const std::vector<uint64_t>* const kept = automaton.mask(at_)) {
    mask_ = *kept;
  } else {
    std::vector<int32_t> states(static_cast<size_t>(words.deepest) + 1);
    states[0] = at_;
    for (size_t i = 0; i < words.nodes.size();) {
      const GrammarVocabulary::State::Node& node = words.nodes[i];
      const int32_t next = automaton.step(states[node.depth], node.byte);
      if (next == Automaton::kDead) {
        i = static_cast<size_t>(node.skip);
        continue;
      }
      states[static_cast<size_t>(node.depth) + 1] = next;
      for (int32_t token = node.token; token >= 0; token = words.same[static_cast<size_t>(token)])
        mask_[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
      ++i;
    }
    automaton.keep_mask(at_, mask_);
  }
  if (automaton.accepts(at_))
    for (const int32_t token : end_tokens_) {
      const auto word = static_cast<size_t>(token) / 64;
      if (word >= mask_.size()) mask_.resize(word + 1);
      mask_[word] |= uint64_t{1} << (token % 64);
    }
  return mask_;
}

bool GrammarMatcher::accept(int32_t token) {
  const std::vector<std::string>& texts = vocabulary_.state_->texts;
  if (token < 0 || static_cast<size_t>(token) >= texts.size() || texts[static_cast<size_t>(token)].empty())
    return false;
  int32_t at = at_;
  for (const char byte : texts[static_cast<size_t>(token)])
    at = grammar_.state_->automaton.step(at, static_cast<uint8_t>(byte));
  if (at == Automaton::kDead) return false;
  at_ = at;
  return true;
}

std::vector<int32_t> GrammarMatcher::forced(size_t most) {
  Automaton& automaton = grammar_.state_->automaton;
  std::string text;
  for (int32_t at = at_; at != Automaton::kDead && !automaton.accepts(at) && text.size() < kMostForced;) {
    int32_t only = Automaton::kDead;
    int ways = 0;
    for (int byte = 0; byte < 256 && ways < 2; ++byte) {
      const int32_t next = automaton.step(at, static_cast<uint8_t>(byte));
      if (next == Automaton::kDead) continue;
      if (++ways == 1) text += static_cast<char>(byte);
      only = next;
    }
    if (ways == 1) {
      at = only;
      continue;
    }
    if (ways > 1) text.pop_back();
    break;
  }
  std::vector<int32_t> tokens;
  for (std::string_view rest = text; !rest.empty() && tokens.size() < most;) {
    const int32_t token = vocabulary_.state_->longest(rest);
    if (token < 0) break;
    tokens.push_back(token);
    rest.remove_prefix(vocabulary_.state_->texts[static_cast<size_t>(token)].size());
  }
  return tokens;
}

bool GrammarMatcher::may_end() const {
  return at_ != Automaton::kDead && grammar_.state_->automaton.accepts(at_);
}

bool GrammarMatcher::must_end() const {
  return at_ == Automaton::kDead || !grammar_.state_->automaton.goes_on(at_);
}

}  // namespace nfloat
