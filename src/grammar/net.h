// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_NET_H_
#define NFLOAT_GRAMMAR_NET_H_

#include <cstdint>
#include <vector>

namespace nfloat::grammar {

// A nondeterministic automaton over bytes whose rules may call each other: a step into a rule is remembered
// until the rule has ended.
struct Edge {
  enum class Kind : uint8_t { kBytes, kEmpty, kRepeat } kind;
  uint8_t low = 0, high = 0;    // kBytes: inclusive
  int32_t rule = 0;             // kRepeat: so often, one after the other
  int32_t least = 1, most = 1;  // most -1: without end
  int32_t target = 0;
};
struct Rule {
  int32_t begin, end;  // states
};
struct Net {
  std::vector<std::vector<Edge>> edges;  // of each state
  std::vector<Rule> rules;               // the first is the whole text
};

// Bytes of the shortest text of each rule; kLongText: that or more, or none.
constexpr int32_t kLongText = 1 << 20;
std::vector<int32_t> shortest_texts(const Net& net);

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_NET_H_
