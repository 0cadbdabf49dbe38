// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_MASKS_H_
#define NFLOAT_GRAMMAR_MASKS_H_

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/vocabulary.h"

namespace nfloat::grammar {

// Which tokens may follow the states of one automaton. What was found once is kept, up to a bound: a mask for
// each state of a long text would take gigabytes with a large vocabulary.
class Masks {
 public:
  using Vocabulary = std::shared_ptr<const GrammarVocabulary::State>;
  static constexpr size_t kMostBytes = size_t{16} << 20;

  // `mask` becomes that of `state`, which is not the dead one. Throws as the automaton does.
  void copy(Automaton& automaton, const Vocabulary& vocabulary, int32_t state, TokenMask& mask);
  size_t bytes() const noexcept { return bytes_; }  // kept

 private:
  const TokenMask& short_tokens(Automaton& automaton, int32_t state);
  const std::vector<int32_t>& lengthy_tokens(Automaton& automaton, int32_t state);
  void make_room(size_t bytes);

  Vocabulary vocabulary_;
  // Of states that count no further than short tokens can, and of all states.
  std::unordered_map<int32_t, TokenMask> short_;
  std::unordered_map<int32_t, std::vector<int32_t>> lengthy_;
  size_t bytes_ = 0;
};

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_MASKS_H_
