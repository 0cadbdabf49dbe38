// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_HEAD_LAYOUT_H_
#define NFLOAT_ENGINE_HEAD_LAYOUT_H_

#include <cstdint>

#include "nfloat/model_config.h"

namespace nfloat {

// Where queries, keys and values lie in a row of what their product gives: all queries, all keys, all values;
// interleaved: query, key and value of the first head, then the second's (heads == kv_heads).
struct HeadLayout {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  bool interleaved = false;

  int64_t query_size() const noexcept { return heads * head_dim; }
  int64_t kv_size() const noexcept { return kv_heads * head_dim; }
  int64_t row() const noexcept { return query_size() + 2 * kv_size(); }
  int64_t query_stride() const noexcept { return interleaved ? 3 * head_dim : head_dim; }
  int64_t key_at() const noexcept { return interleaved ? head_dim : query_size(); }
  int64_t key_stride() const noexcept { return query_stride(); }
  int64_t value_after_key() const noexcept { return interleaved ? head_dim : kv_size(); }
  bool operator==(const HeadLayout&) const = default;
};

inline HeadLayout head_layout(const ModelConfig& config) noexcept {
  return {config.heads, config.kv_heads, config.head_dim, config.interleaved_heads};
}

// Query heads [first, first + heads) and the key-value heads that they read.
struct HeadRange {
  int64_t first = 0;
  int64_t heads = 0;
  int64_t first_kv = 0;
  int64_t kv_heads = 0;
};

// Rows of a matrix that are outputs of query, key and value: from the output `first` of that product on.
struct HeadRows {
  HeadLayout layout;
  int64_t first = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_HEAD_LAYOUT_H_
