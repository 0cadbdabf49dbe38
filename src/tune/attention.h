// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_ATTENTION_H_
#define NFLOAT_TUNE_ATTENTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "linear/state.h"
#include "nfloat/model_config.h"
#include "tune/batch.h"
#include "tune/kept_rows.h"

namespace nfloat {

inline constexpr int64_t kScoreRows = 64;  // rows of scores that exist at once, for each thread

// Where queries, keys and values lie in a row of what the projections gave.
struct HeadPlaces {
  explicit HeadPlaces(const ModelConfig& config) noexcept;
  int64_t query(int64_t head) const noexcept { return head * head_dim * (interleaved ? 3 : 1); }
  int64_t key(int64_t kv_head) const noexcept {
    return interleaved ? (3 * kv_head + 1) * head_dim : heads * head_dim + kv_head * head_dim;
  }
  int64_t value(int64_t kv_head) const noexcept {
    return key(kv_head) + (interleaved ? head_dim : kv_heads * head_dim);
  }
  int64_t row() const noexcept { return (heads + 2 * kv_heads) * head_dim; }

  int64_t heads, kv_heads, head_dim;
  bool interleaved;
};

// One layer's attention. Rows of `projected` and `gradient` are laid out by `places`: queries are scaled and
// rotated, keys rotated.
struct AttentionLayer {
  HeadPlaces places;
  int64_t window = 0;  // 0: all
  float softcap = 0;
  const float* sinks = nullptr;  // one a head, or null
  std::span<const Document> documents;
  int threads = 1;
};

// Causal attention inside each document. attended: [rows][heads * head_dim]; log_sums: [rows][heads], of the
// scores. Nothing of the size rows x rows is made.
void attend_documents(const AttentionLayer& layer, const float* projected, float* attended, float* log_sums);

// gradient = that of `projected`, from d_attended. Scores are computed again.
void attend_backward(const AttentionLayer& layer, const float* projected, const float* attended,
                     const float* log_sums, const float* d_attended, float* gradient);

// The same of rows of bf16, on targets that multiply pairs of it, for heads of an even dimension; log_sums
// stay float32. The gradient may lie where `projected` does.
void attend_documents(const AttentionLayer& layer, HalfRows projected, HalfRows attended, float* log_sums);
void attend_backward(const AttentionLayer& layer, HalfRows projected, HalfRows attended,
                     const float* log_sums, HalfRows d_attended, HalfRows gradient);
// What that takes for each thread.
size_t pair_attention_bytes(int64_t head_dim, int64_t length, bool capped) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_TUNE_ATTENTION_H_
