// SPDX-License-Identifier: Apache-2.0
#include "model/workspace.h"

#include <algorithm>
#include <iterator>

#include "kernels/attention.h"

namespace nfloat {

void Workspace::reserve(const ModelConfig& config, int64_t rows, int threads) {
  if (rows <= rows_ && threads <= threads_) return;
  rows_ = std::max(rows, rows_);
  threads_ = std::max(threads, threads_);
  const int64_t queries = kAttentionRows * std::min(config.heads / config.kv_heads, kAttentionHeads);
  // Every part begins on a cache line.
  const auto lines = [](int64_t floats) { return (floats + 15) / 16 * 16; };
  scratch_floats =
      lines(std::max(config.head_dim, kernels::attention_scratch_floats(config.head_dim, queries)));
  float** const parts[] = {&x, &normed, &projected, &attended, &gate_up, &added, &scratch};
  const int64_t sizes[] = {lines(rows_ * config.hidden),
                           lines(rows_ * config.hidden),
                           lines(rows_ * (config.query_size() + 2 * config.kv_size())),
                           lines(rows_ * config.query_size()),
                           lines(rows_ * 2 * config.intermediate),
                           lines(rows_ * config.hidden),
                           threads_ * scratch_floats};
  int64_t total = 0;
  for (int64_t size : sizes) total += size;
  buffer_ = Buffer(static_cast<size_t>(total) * sizeof(float));
  float* next = reinterpret_cast<float*>(buffer_.data());
  for (size_t i = 0; i < std::size(sizes); ++i) {
    *parts[i] = next;
    next += sizes[i];
  }
}

}  // namespace nfloat
