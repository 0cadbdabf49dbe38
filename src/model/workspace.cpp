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
  float** const parts[] = {&x,        &normed,        &projected,    &attended,      &gate_up, &added,
                           &embedded, &router_logits, &expert_input, &expert_output, &scratch};
  const ExpertsConfig& experts = config.experts;
  const int64_t expert_hidden = experts.count > 0 ? config.hidden : 0;
  const int64_t sizes[] = {lines(rows_ * config.hidden),
                           lines(rows_ * config.hidden),
                           lines(rows_ * (config.query_size() + 2 * config.kv_size())),
                           lines(rows_ * config.query_size()),
                           lines(rows_ * 2 * std::max(config.intermediate, experts.intermediate)),
                           lines(rows_ * config.hidden),
                           lines(rows_ * config.embedding_size),
                           lines(rows_ * experts.count),
                           lines(rows_ * expert_hidden),
                           lines(rows_ * expert_hidden),
                           threads_ * scratch_floats};
  chosen.resize(static_cast<size_t>(rows_ * experts.chosen));
  expert_shares.resize(chosen.size());
  expert_rows.reserve(chosen.size());
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
