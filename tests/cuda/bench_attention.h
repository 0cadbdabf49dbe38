// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CUDA_BENCH_ATTENTION_H_
#define NFLOAT_TESTS_CUDA_BENCH_ATTENTION_H_

#include "bench.h"
#include "cuda/attention_tiles.h"

namespace conformance {

// A layer's attention of an 8B shape (32 heads, 8 of keys and values, 128 numbers, f16): `rows` behind `past`
// positions of one sequence, in tiles or row by row; keys and values are stored, too. Operations are those of
// positions that a row sees, bytes what is read and written once; the share is of `float_tflops`.
inline Row attention_row(int rows, int past, bool in_tiles, int multiprocessors, double float_tflops) {
  constexpr int kHeads = 32, kKvHeads = 8, kHead = 128;
  constexpr int64_t kWidth = int64_t{kHeads + 2 * kKvHeads} * kHead;
  const int positions = past + rows;
  const int64_t pages = (positions + gpu::kPagePositions - 1) / gpu::kPagePositions;
  const int64_t words = kKvHeads * gpu::head_words(gpu::Cache::kF16, kHead);
  const DeviceArray<float> x(rows * kWidth, 1, 1.0f), y(int64_t{rows} * kHeads * kHead, 2, 1.0f),
      angles(kHead, 3, 1.0f);
  const Buffer<uint32_t> memory(std::vector<uint32_t>(static_cast<size_t>(pages * words), 0x38003800u));
  std::vector<std::byte*> page_list;
  for (int64_t i = 0; i < pages; ++i)
    page_list.push_back(reinterpret_cast<std::byte*>(memory.get() + i * words));
  const Buffer<std::byte*> d_pages(page_list);
  std::vector<gpu::RowPlace> places;
  for (int p = past; p < positions; ++p) places.push_back({d_pages.get(), angles.data, p});
  const Buffer<gpu::RowPlace> d_places(places);
  gpu::AttentionArguments a;
  a.projected = x.data;
  a.attended = y.data;
  a.places = d_places.get();
  a.rows = rows;
  a.projected_stride = kWidth;
  a.attended_stride = int64_t{kHeads} * kHead;
  a.one_sequence = in_tiles;
  a.heads = kHeads;
  a.kv_heads = kKvHeads;
  a.head = a.turned = a.query_stride = a.key_stride = kHead;
  a.key_at = kHeads * kHead;
  a.value_after_key = kKvHeads * kHead;
  a.most_pages = pages;
  a.scale = 0.088388f;
  const Timing t = time_graph(rows > 1 ? 2 : 50, 10, [&](int) { gpu::launch_attention(a, multiprocessors); });
  const double seen = static_cast<double>(rows) * (past + (rows + 1) / 2.0);
  const double bytes =
      static_cast<double>(rows) * (kWidth + kHeads * kHead) * 4 + 4.0 * positions * kKvHeads * kHead;
  const double tflops = 4 * seen * kHeads * kHead / t.us * 1e-6;
  return {in_tiles ? "attention in tiles" : "attention row by row",
          "32/8x128 f16 at " + std::to_string(positions),
          rows,
          16,
          t,
          bytes / t.us * 1e-3,
          tflops,
          tflops / float_tflops};
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_BENCH_ATTENTION_H_
