// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_ATTENTION_ROWS_H_
#define NFLOAT_TUNE_ATTENTION_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "base/parallel.h"
#include "tune/attention.h"

// What attention in float32 and in pairs of bf16 share: rows of scores are float32 in both.
namespace nfloat {

// Of a row of scores, `width` long, the positions [begin, end) are seen.
struct SeenRow {
  int64_t begin, end, width;
};

// First position that the query at `position` of a document sees; the last one is its own.
int64_t first_seen(const AttentionLayer& layer, int64_t position) noexcept;

// Scores to weights that sum to 1, zero where nothing is seen. Returns the logarithm of the sum.
float weigh_row(const AttentionLayer& layer, int64_t head, SeenRow seen, float* row) noexcept;

// Scores to weights again, and the gradients of weights in d to those of scores, zero where nothing is seen.
// along: the product of what the query attended with its gradient; slopes: memory for [begin, end), of capped
// scores only.
void weigh_row_back(const AttentionLayer& layer, SeenRow seen, float log_sum, float along, float* row,
                    float* d, float* slopes) noexcept;

int64_t longest_document(const AttentionLayer& layer) noexcept;

// body(document, key-value head, scratch of so many bytes) of all of them, shared out.
template <typename Body>
void over_kv_heads(const AttentionLayer& layer, size_t bytes, const Body& body) {
  const int64_t kv_heads = layer.places.kv_heads;
  parallel_for(static_cast<int64_t>(layer.documents.size()) * kv_heads, 1, layer.threads,
               [&](int64_t begin, int64_t end) {
                 float* scratch = reinterpret_cast<float*>(thread_scratch(bytes));
                 for (int64_t i = begin; i < end; ++i)
                   body(layer.documents[static_cast<size_t>(i / kv_heads)], i % kv_heads, scratch);
               });
}

}  // namespace nfloat

#endif  // NFLOAT_TUNE_ATTENTION_ROWS_H_
