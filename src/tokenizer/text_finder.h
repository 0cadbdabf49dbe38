// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_TEXT_FINDER_H_
#define NFLOAT_TOKENIZER_TEXT_FINDER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace nfloat {

// A set of texts, each with a value, as a trie: finds those that begin at one place of a text in one pass.
class TextFinder {
 public:
  // `text` is not empty; one that comes again gets the new value.
  void add(std::string_view text, int32_t value);
  bool empty() const noexcept { return next_node_ == 1; }

  // Calls visit(end, value) for every text of the set that begins at `at`, the shortest first.
  template <typename Visit>
  void visit_at(std::string_view text, size_t at, Visit&& visit) const {
    if (at >= text.size() || !begins_[static_cast<uint8_t>(text[at])]) return;
    uint32_t node = 0;
    for (size_t i = at; i < text.size(); ++i) {
      node = child(node, static_cast<uint8_t>(text[i]));
      if (node == kNone) return;
      if (values_[node] >= 0) visit(i + 1, values_[node]);
    }
  }

  // The longest text that begins at `at`: its value, and its end in `end`; -1 when none does.
  int32_t match(std::string_view text, size_t at, size_t* end) const {
    int32_t longest = -1;
    visit_at(text, at, [&](size_t behind, int32_t value) {
      longest = value;
      *end = behind;
    });
    return longest;
  }

 private:
  struct Edge {
    uint64_t key = kEmpty;  // node << 8 | byte
    uint32_t to = 0;
  };
  static constexpr uint64_t kEmpty = UINT64_MAX;
  static constexpr uint32_t kNone = UINT32_MAX;

  size_t slot_of(uint64_t key) const noexcept {
    size_t slot = static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 24) & (edges_.size() - 1);
    while (edges_[slot].key != key && edges_[slot].key != kEmpty) slot = (slot + 1) & (edges_.size() - 1);
    return slot;
  }
  uint32_t child(uint32_t node, uint8_t byte) const noexcept {
    const Edge& edge = edges_[slot_of(uint64_t{node} << 8 | byte)];
    return edge.key == kEmpty ? kNone : edge.to;
  }
  void grow();

  std::vector<Edge> edges_ = std::vector<Edge>(16);  // open addressing, at most half full
  std::vector<int32_t> values_{-1};                  // by node
  std::array<bool, 256> begins_{};
  uint32_t next_node_ = 1;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_TEXT_FINDER_H_
