// SPDX-License-Identifier: Apache-2.0
#include "nfloat/grammar.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "base/json.h"
#include "grammar/automaton.h"
#include "grammar/masks.h"
#include "grammar/regex.h"
#include "grammar/schema.h"
#include "grammar/vocabulary.h"

namespace nfloat {

using grammar::Automaton;
using grammar::Builder;
using grammar::Piece;

// As much of the automaton as texts have needed.
struct Grammar::Walk {
  explicit Walk(grammar::Net net) : automaton(std::move(net)) {}
  bool is_large() const noexcept { return automaton.size() >= Automaton::kMostStates / 2; }
  Automaton automaton;
  grammar::Masks masks;
};

struct Grammar::State {
  explicit State(grammar::Net net) : walk(std::make_shared<Walk>(std::move(net))) {}
  std::shared_ptr<Walk> newest() {
    if (walk->is_large()) walk = std::make_shared<Walk>(walk->automaton.net());
    return walk;
  }

 private:
  std::shared_ptr<Walk> walk;
};

namespace {

constexpr size_t kMostForced = 128;  // bytes of a text without a choice that are looked at

Json parsed_schema(std::string_view text) {
  try {
    return Json::parse(text, {.depth = 64, .values = 200000, .unique_names = true});
  } catch (const JsonError& error) {
    fail(ErrorCode::kInvalidArgument, "the schema: {}", error.what());
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

GrammarMatcher::GrammarMatcher(const Grammar& grammar, const GrammarVocabulary& vocabulary,
                               std::vector<int32_t> end_tokens)
    : grammar_(grammar), vocabulary_(vocabulary), end_tokens_(std::move(end_tokens)) {
  walk_ = grammar_.state_->newest();
  at_ = walk_->automaton.start();
}

// What has grown large is left behind with all that the present state does not need.
void GrammarMatcher::renew() {
  if (!walk_->is_large()) return;
  std::shared_ptr<Grammar::Walk> next = grammar_.state_->newest();
  if (next == walk_) return;
  at_ = next->automaton.adopt(walk_->automaton, at_);
  walk_ = std::move(next);
}

std::span<const uint64_t> GrammarMatcher::allowed() {
  renew();
  Automaton& automaton = walk_->automaton;
  if (at_ == Automaton::kDead) {
    mask_.assign(vocabulary_.state_->mask_words(), 0);
    return mask_;
  }
  walk_->masks.copy(automaton, vocabulary_.state_, at_, mask_);
  if (automaton.accepts(at_))
    for (const int32_t token : end_tokens_) {
      const auto words = static_cast<size_t>(token) / 64 + 1;
      if (words > mask_.size()) mask_.resize(words);
      grammar::allow(mask_, token);
    }
  return mask_;
}

bool GrammarMatcher::accept(int32_t token) {
  const std::vector<std::string>& texts = vocabulary_.state_->texts;
  if (token < 0 || static_cast<size_t>(token) >= texts.size() || texts[static_cast<size_t>(token)].empty())
    return false;
  renew();
  int32_t at = at_;
  for (const char byte : texts[static_cast<size_t>(token)])
    at = walk_->automaton.step(at, static_cast<uint8_t>(byte));
  if (at == Automaton::kDead) return false;
  at_ = at;
  return true;
}

std::vector<int32_t> GrammarMatcher::forced(size_t most) {
  renew();
  Automaton& automaton = walk_->automaton;
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
  return at_ != Automaton::kDead && walk_->automaton.accepts(at_);
}

bool GrammarMatcher::must_end() const {
  return at_ == Automaton::kDead || !walk_->automaton.goes_on(at_);
}

}  // namespace nfloat
