// SPDX-License-Identifier: Apache-2.0
#include "grammar/masks.h"

#include <utility>

namespace nfloat::grammar {
namespace {

// How many plain characters can follow a state, whichever they are: so many at least, and no more when that
// is the whole of it.
struct PlainRun {
  int32_t length;
  bool is_all;
};

PlainRun plain_run(Automaton& automaton, int32_t state, int32_t most) {
  bool is_all = true;
  for (int32_t length = 0; length < most; ++length) {
    is_all = is_all && !automaton.takes_some_plain(state);
    const int32_t next = automaton.plain_next(state);
    if (next == Automaton::kDead) return {length, is_all};
    state = next;
  }
  return {most, true};
}

}  // namespace

void Masks::make_room(size_t bytes) {
  if (bytes_ + bytes > kMostBytes) {
    short_.clear();
    lengthy_.clear();
    bytes_ = 0;
  }
  bytes_ += bytes;
}

const TokenMask& Masks::short_tokens(Automaton& automaton, int32_t state) {
  const GrammarVocabulary::State& words = *vocabulary_;
  state = automaton.saturated(state, GrammarVocabulary::State::kShort);
  if (const auto found = short_.find(state); found != short_.end()) return found->second;
  const PlainRun run = plain_run(automaton, state, words.most_plain());
  TokenMask mask = words.plain_masks[static_cast<size_t>(run.length)];
  const auto allow = [&](int32_t token) { words.allow(mask, token); };
  if (!run.is_all) words.plain.walk(automaton, state, allow);
  words.other.walk(automaton, state, allow);
  make_room(mask.size() * sizeof mask[0]);
  return short_.insert_or_assign(state, std::move(mask)).first->second;
}

const std::vector<int32_t>& Masks::lengthy_tokens(Automaton& automaton, int32_t state) {
  if (const auto found = lengthy_.find(state); found != lengthy_.end()) return found->second;
  std::vector<int32_t> tokens;
  vocabulary_->lengthy.walk(automaton, state, [&](int32_t token) { tokens.push_back(token); });
  make_room(sizeof tokens + tokens.size() * sizeof tokens[0]);
  return lengthy_.insert_or_assign(state, std::move(tokens)).first->second;
}

void Masks::copy(Automaton& automaton, const Vocabulary& vocabulary, int32_t state, TokenMask& mask) {
  if (vocabulary_ != vocabulary) {
    make_room(kMostBytes + 1);
    bytes_ = 0;
    vocabulary_ = vocabulary;
  }
  mask = short_tokens(automaton, state);
  for (const int32_t token : lengthy_tokens(automaton, state)) vocabulary_->allow(mask, token);
}

}  // namespace nfloat::grammar
