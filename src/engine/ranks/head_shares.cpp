// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks/head_shares.h"

#include <algorithm>

#include "nfloat/ranks.h"

namespace nfloat {

std::vector<HeadRange> share_heads(int64_t heads, int64_t kv_heads, std::span<const double> weights) {
  const int64_t group = heads / kv_heads;
  std::vector<int64_t> bounds = share_rows(kv_heads, 1, weights);
  const bool groups = std::adjacent_find(bounds.begin(), bounds.end()) == bounds.end();
  if (groups)
    for (int64_t& bound : bounds) bound *= group;
  else
    bounds = share_rows(heads, 1, weights);
  std::vector<HeadRange> ranges;
  for (size_t rank = 0; rank + 1 < bounds.size(); ++rank) {
    const int64_t first = bounds[rank], last = bounds[rank + 1], first_kv = first / group;
    ranges.push_back(
        {first, last - first, first_kv, last == first ? 0 : (last + group - 1) / group - first_kv});
  }
  return ranges;
}

std::vector<RowRange> rows_of_heads(const HeadRows& place, int64_t rows, const HeadRange& heads) {
  const HeadLayout& layout = place.layout;
  const int64_t width = layout.head_dim;
  std::vector<RowRange> found;
  // Outputs of the product, of which the matrix has those from place.first on.
  const auto take = [&](int64_t first, int64_t count) {
    const int64_t begin = std::max<int64_t>(first - place.first, 0);
    const int64_t end = std::min(first + count - place.first, rows);
    if (end > begin) found.push_back({begin, end - begin});
  };
  if (layout.interleaved) {
    take(heads.first * 3 * width, heads.heads * 3 * width);
    return found;
  }
  take(heads.first * width, heads.heads * width);
  for (const int64_t at : {layout.query_size(), layout.query_size() + layout.kv_size()})
    take(at + heads.first_kv * width, heads.kv_heads * width);
  return found;
}

}  // namespace nfloat
