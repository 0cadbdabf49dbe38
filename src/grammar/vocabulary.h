// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_VOCABULARY_H_
#define NFLOAT_GRAMMAR_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"
#include "nfloat/grammar.h"

namespace nfloat {
namespace grammar {

// Bit t % 64 of word t / 64: token t.
using TokenMask = std::vector<uint64_t>;
inline void allow(TokenMask& mask, int32_t token) {
  mask[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
}

// The tree of some tokens' bytes, each node before its children.
class TokenTree {
 public:
  // `tokens` by texts in order, without empty ones; of equal texts the first.
  void add(std::string_view text, int32_t token);
  void finish();

  // The longest token that `text` begins with, and its bytes; -1 and 0: none.
  std::pair<int32_t, size_t> longest(std::string_view text) const noexcept;

  // Calls take() with each token that `automaton` can follow from `state`.
  template <typename Take>
  void walk(Automaton& automaton, int32_t state, const Take& take) const {
    std::vector<int32_t> states(deepest_ + 1);  // by depth
    states[0] = state;
    for (size_t i = 0; i < nodes_.size();) {
      const Node& node = nodes_[i];
      const int32_t next = automaton.step(states[node.depth], node.byte);
      if (next == Automaton::kDead) {
        i = static_cast<size_t>(node.skip);
        continue;
      }
      states[size_t{node.depth} + 1] = next;
      if (node.token >= 0) take(node.token);
      ++i;
    }
  }

 private:
  struct Node {
    int32_t skip;   // the next node that does not begin with this one's text
    int32_t token;  // of that text; -1: none
    uint16_t depth;
    uint8_t byte;
  };
  std::vector<Node> nodes_;
  std::vector<int32_t> open_;  // nodes on the way to the last one
  std::string last_;
  size_t deepest_ = 0;
};

}  // namespace grammar

struct GrammarVocabulary::State {
  explicit State(const std::vector<std::string>& tokens);

  // The longest token that `text` begins with; -1: none.
  int32_t longest(std::string_view text) const noexcept;
  size_t mask_words() const noexcept { return (texts.size() + 63) / 64; }
  // With all tokens of the same text.
  void allow(grammar::TokenMask& mask, int32_t token) const {
    for (; token >= 0; token = same[static_cast<size_t>(token)]) grammar::allow(mask, token);
  }
  // Most plain characters of a token in `plain`.
  int32_t most_plain() const noexcept { return static_cast<int32_t>(plain_masks.size()) - 1; }

  // Bytes of a short token. There are few longer ones (of 151643 tokens of Qwen3 240, of 262144 of Gemma 3
  // 746), and what they may do depends on how far repetitions have counted.
  static constexpr size_t kShort = 32;

  std::vector<std::string> texts;
  std::vector<int32_t> same;                    // of each token: another one with the same text, or -1
  grammar::TokenTree plain, other, lengthy;     // short ones of plain characters only, other short ones
  std::vector<grammar::TokenMask> plain_masks;  // of tokens in `plain` with at most so many characters
};

}  // namespace nfloat

#endif  // NFLOAT_GRAMMAR_VOCABULARY_H_
