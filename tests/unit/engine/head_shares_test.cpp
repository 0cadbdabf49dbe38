// SPDX-License-Identifier: Apache-2.0
// Which heads and which rows are whose: every query head has one rank, with the keys and values that it
// reads.
#include "engine/ranks/head_shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "engine/ranks/ranks_device.h"
#include "support/thread_ranks.h"

namespace nfloat {
namespace {

// What an output of the product is, counted plainly: 0 a query, 1 a key, 2 a value; and of which head.
struct Output {
  int kind;
  int64_t head;
};
std::vector<Output> outputs_of(const HeadLayout& layout) {
  std::vector<Output> outputs;
  if (layout.interleaved) {
    for (int64_t head = 0; head < layout.heads; ++head)
      for (int kind = 0; kind < 3; ++kind)
        for (int64_t d = 0; d < layout.head_dim; ++d) outputs.push_back({kind, head});
    return outputs;
  }
  for (int kind = 0; kind < 3; ++kind)
    for (int64_t head = 0; head < (kind == 0 ? layout.heads : layout.kv_heads); ++head)
      for (int64_t d = 0; d < layout.head_dim; ++d) outputs.push_back({kind, head});
  return outputs;
}

TEST(HeadShares, EachHeadHasARankWithItsKeysAndValues) {
  const std::vector<HeadLayout> layouts{{8, 8, 4, false}, {8, 8, 4, true},  {8, 2, 4, false},
                                        {6, 3, 5, false}, {7, 1, 3, false}, {1, 1, 16, false}};
  const std::vector<std::vector<double>> shares{{1},    {1, 1}, {1, 1, 1}, {1, 1, 1, 1},
                                                {3, 1}, {1, 0}, {0, 2, 5}};
  for (const HeadLayout& layout : layouts)
    for (const std::vector<double>& weights : shares) {
      const int64_t group = layout.heads / layout.kv_heads;
      const auto ranges = share_heads(layout.heads, layout.kv_heads, weights);
      ASSERT_EQ(ranges.size(), weights.size());
      int64_t next = 0;
      for (const HeadRange& range : ranges) {
        EXPECT_EQ(range.first, next);
        next += range.heads;
        if (range.heads == 0) {
          EXPECT_EQ(range.kv_heads, 0);
          continue;
        }
        EXPECT_EQ(range.first_kv, range.first / group);
        EXPECT_EQ(range.first_kv + range.kv_heads - 1, (range.first + range.heads - 1) / group);
      }
      EXPECT_EQ(next, layout.heads);

      // As one matrix, and cut into three at any places.
      const std::vector<Output> outputs = outputs_of(layout);
      const auto height = static_cast<int64_t>(outputs.size());
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{0, height},
            {0, layout.query_size(), layout.query_size() + layout.kv_size(), height},
            {0, 1, height / 2 + 1, height}})
        for (const HeadRange& range : ranges) {
          std::vector<int64_t> found, expected;
          for (size_t i = 0; i + 1 < cuts.size(); ++i)
            for (const RowRange& rows : rows_of_heads({layout, cuts[i]}, cuts[i + 1] - cuts[i], range))
              for (int64_t row = 0; row < rows.count; ++row) found.push_back(cuts[i] + rows.first + row);
          for (int64_t i = 0; i < height; ++i) {
            const auto [kind, head] = outputs[static_cast<size_t>(i)];
            const int64_t first = kind == 0 ? range.first : range.first_kv;
            const int64_t count = kind == 0 ? range.heads : range.kv_heads;
            if (head >= first && head < first + count) expected.push_back(i);
          }
          EXPECT_EQ(found, expected);
        }
    }
}

// Groups stay whole where each rank can have one.
TEST(HeadShares, NoKeyIsHeldTwiceWhereThereAreEnough) {
  for (const std::vector<double>& weights : {std::vector<double>{1, 1}, {1, 1, 1}, {3, 1}, {5, 2, 1}}) {
    int64_t sum = 0;
    for (const HeadRange& range : share_heads(32, 8, weights)) sum += range.kv_heads;
    EXPECT_EQ(sum, 8);
  }
}

TEST(HeadShares, ARankKeepsThePagesOfItsHeads) {
  const CacheShape shape{3, 8, 64, kernels::KvType::kF16, 32};
  const auto ranks = thread_ranks(2);
  int64_t sum = 0;
  for (const auto& one : ranks) {
    const auto device = ranks_device(one, {3, 1});
    EXPECT_EQ(device->page_bytes(shape), cpu_device()->page_bytes(shape));
    EXPECT_EQ(device->own_page_bytes(shape) * 4, device->page_bytes(shape) * (one->rank() == 0 ? 3 : 1));
    sum += device->own_page_bytes(shape);
  }
  EXPECT_EQ(sum, cpu_device()->own_page_bytes(shape));
}

}  // namespace
}  // namespace nfloat
