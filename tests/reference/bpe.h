// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_REFERENCE_BPE_H_
#define NFLOAT_TESTS_REFERENCE_BPE_H_

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace nfloat::reference {

// Byte-pair encoding as its definition reads: again and again, of all neighbours that a rule merges, the pair
// whose rule comes first in the list, at its leftmost place. Quadratic.
inline std::vector<std::string> byte_pair_encode(
    std::vector<std::string> symbols, const std::vector<std::pair<std::string, std::string>>& rules) {
  std::map<std::pair<std::string, std::string>, size_t> rank;
  for (size_t i = 0; i < rules.size(); ++i) rank[rules[i]] = i;
  for (;;) {
    size_t best = rules.size(), where = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = rank.find({symbols[i], symbols[i + 1]});
      if (found != rank.end() && found->second < best) {
        best = found->second;
        where = i;
      }
    }
    if (best == rules.size()) return symbols;
    symbols[where] += symbols[where + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

}  // namespace nfloat::reference

#endif  // NFLOAT_TESTS_REFERENCE_BPE_H_
