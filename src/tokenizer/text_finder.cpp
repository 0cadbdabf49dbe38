// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/text_finder.h"

#include <utility>

namespace nfloat {

void TextFinder::add(std::string_view text, int32_t value) {
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<uint8_t>(c);
    size_t slot = slot_of(key);
    if (edges_[slot].key == kEmpty) {
      if (2 * size_t{next_node_} >= edges_.size()) {
        grow();
        slot = slot_of(key);
      }
      edges_[slot] = {key, next_node_++};
      values_.push_back(-1);
    }
    node = edges_[slot].to;
  }
  values_[node] = value;
  begins_[static_cast<uint8_t>(text[0])] = true;
}

void TextFinder::grow() {
  const std::vector<Edge> old = std::exchange(edges_, std::vector<Edge>(4 * edges_.size()));
  for (const Edge& edge : old)
    if (edge.key != kEmpty) edges_[slot_of(edge.key)] = edge;
}

}  // namespace nfloat
