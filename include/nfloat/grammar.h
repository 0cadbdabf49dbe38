// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_H_
#define NFLOAT_GRAMMAR_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

// A function and the JSON schema of its arguments; empty: any object.
struct FunctionSchema {
  std::string name, parameters;
};

// The texts that an answer may be. JSON is in one form: members in the order of the schema, ": " and ", "
// between values, no other space. Numbers have at most 15 digits before the point. Copies share one
// automaton, which grows with use up to a bound and then begins anew: matchers of one grammar belong to one
// thread.
class NFLOAT_API Grammar {
 public:
  // type, properties, required, additionalProperties, enum, const, items, prefixItems, minItems, maxItems,
  // anyOf, allOf with one schema, $ref with $defs, minLength, maxLength, pattern, minimum, maximum,
  // exclusiveMinimum, exclusiveMaximum, format (date, time, date-time, uuid, ipv4, email); titles,
  // descriptions and the like are ignored. Throws kUnsupported for other keywords and kInvalidArgument for
  // schemas that make no sense, with the place, as "#/properties/a".
  static Grammar from_json_schema(std::string_view schema);
  // Any JSON object.
  static Grammar json_object();
  // A text that matches as a whole. Alternatives, groups, classes, repetitions; no look-around, no references
  // back. Throws kInvalidArgument or kUnsupported with the place.
  static Grammar from_regex(std::string_view expression);
  // {"name": NAME, "arguments": ARGUMENTS} of one of the functions.
  static Grammar from_functions(std::span<const FunctionSchema> functions);

  struct State;
  struct Walk;

 private:
  explicit Grammar(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
  friend class GrammarMatcher;
  std::shared_ptr<State> state_;
};

// The bytes of a vocabulary's tokens, as a tree. Immutable; copies share it.
class NFLOAT_API GrammarVocabulary {
 public:
  // `tokens`: the bytes of each; an empty one is never allowed.
  explicit GrammarVocabulary(const std::vector<std::string>& tokens);

  struct State;

 private:
  friend class GrammarMatcher;
  std::shared_ptr<const State> state_;
};

// One text that keeps to a grammar, token by token.
class NFLOAT_API GrammarMatcher {
 public:
  // `end_tokens` are allowed where the text may end.
  GrammarMatcher(const Grammar& grammar, const GrammarVocabulary& vocabulary,
                 std::vector<int32_t> end_tokens);

  // Bit t % 64 of word t / 64: token t may follow. Valid until the next call. Throws kUnsupported when the
  // tokens that may follow need more of the automaton than its bound.
  std::span<const uint64_t> allowed();
  // Takes a token's text in. False, and nothing changes: the grammar does not allow it.
  bool accept(int32_t token);
  // At most `most` tokens of the text that must follow, each the longest that fits; none where there is a
  // choice. Throws as allowed().
  std::vector<int32_t> forced(size_t most);
  bool may_end() const;   // the text is complete
  bool must_end() const;  // and nothing can follow

 private:
  void renew();

  Grammar grammar_;
  std::shared_ptr<Grammar::Walk> walk_;
  GrammarVocabulary vocabulary_;
  std::vector<int32_t> end_tokens_;
  std::vector<uint64_t> mask_;
  int32_t at_;  // state of the automaton
};

}  // namespace nfloat

#endif  // NFLOAT_GRAMMAR_H_
