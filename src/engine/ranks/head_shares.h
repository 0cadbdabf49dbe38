// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_RANKS_HEAD_SHARES_H_
#define NFLOAT_ENGINE_RANKS_HEAD_SHARES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/head_layout.h"

namespace nfloat {

// Rows [first, first + count) of a matrix.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
  bool operator==(const RowRange&) const = default;
};

// Which heads are each rank's, by the shares `weights`: whole groups of the query heads of one key-value head
// where there is one for each rank; else query heads, and a key-value head is with every rank that has
// queries of it.
std::vector<HeadRange> share_heads(int64_t heads, int64_t kv_heads, std::span<const double> weights);

// The rows of a matrix of `rows` rows that belong to the heads of a rank, in their order: none, one, or of a
// matrix that gives queries, keys and values up to three.
std::vector<RowRange> rows_of_heads(const HeadRows& place, int64_t rows, const HeadRange& heads);

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_RANKS_HEAD_SHARES_H_
