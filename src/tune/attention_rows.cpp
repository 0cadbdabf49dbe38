// SPDX-License-Identifier: Apache-2.0
#include "tune/attention_rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/dispatch.h"

namespace nfloat {

static void clear_unseen(SeenRow seen, float* row) noexcept {
  std::fill_n(row, seen.begin, 0.0f);
  std::fill_n(row + seen.end, seen.width - seen.end, 0.0f);
}

int64_t first_seen(const AttentionLayer& layer, int64_t position) noexcept {
  return layer.window > 0 ? std::max<int64_t>(0, position + 1 - layer.window) : 0;
}

float weigh_row(const AttentionLayer& layer, int64_t head, SeenRow seen, float* row) noexcept {
  const kernels::KernelTable& kernels = kernels::table();
  const int64_t begin = seen.begin, end = seen.end;
  if (layer.softcap > 0) kernels.transformer.softcap(row + begin, layer.softcap, end - begin);
  float most = kernels.train.largest(row + begin, end - begin);
  if (layer.sinks != nullptr) most = std::max(most, layer.sinks[head]);
  float sum = kernels.train.exponentials(row + begin, most, end - begin);
  if (layer.sinks != nullptr) sum += std::exp(layer.sinks[head] - most);
  const float factor = 1.0f / sum;
  for (int64_t j = begin; j < end; ++j) row[j] *= factor;
  clear_unseen(seen, row);
  return most + std::log(sum);
}

void weigh_row_back(const AttentionLayer& layer, SeenRow seen, float log_sum, float along, float* row,
                    float* d, float* slopes) noexcept {
  const kernels::KernelTable& kernels = kernels::table();
  const int64_t begin = seen.begin, end = seen.end;
  const float cap = layer.softcap;
  if (cap > 0) {
    kernels.transformer.softcap(row + begin, cap, end - begin);
    for (int64_t j = begin; j < end; ++j) slopes[j] = 1 - row[j] / cap * (row[j] / cap);
  }
  kernels.train.exponentials(row + begin, log_sum, end - begin);
  for (int64_t j = begin; j < end; ++j) d[j] = row[j] * (d[j] - along);
  if (cap > 0)
    for (int64_t j = begin; j < end; ++j) d[j] *= slopes[j];
  clear_unseen(seen, row);
  clear_unseen(seen, d);
}

int64_t longest_document(const AttentionLayer& layer) noexcept {
  int64_t longest = 0;
  for (const Document& document : layer.documents) longest = std::max(longest, document.length);
  return longest;
}

}  // namespace nfloat
