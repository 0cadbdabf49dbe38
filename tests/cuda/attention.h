// SPDX-License-Identifier: Apache-2.0
// Attention over pages, row by row and in tiles.
#ifndef NFLOAT_TESTS_CUDA_ATTENTION_H_
#define NFLOAT_TESTS_CUDA_ATTENTION_H_

#include <algorithm>
#include <type_traits>

#include "cuda/attention_tiles.h"
#include "rows_of.h"

namespace conformance {

template <typename Body>
void with_cache(gpu::Cache type, const Body& body) {
  if (type == gpu::Cache::kF32) {
    body(std::integral_constant<gpu::Cache, gpu::Cache::kF32>());
  } else if (type == gpu::Cache::kF16) {
    body(std::integral_constant<gpu::Cache, gpu::Cache::kF16>());
  } else {
    body(std::integral_constant<gpu::Cache, gpu::Cache::kInt8>());
  }
}

struct AttentionCase {
  gpu::Cache type;
  int heads, kv_heads, head, turned, window;
  float softcap;
  bool sinks;
  int rows;
};

// A prompt of one sequence, position by position: what is stored is checked by what is attended from it.
inline void check_attention(const AttentionCase& c, Random& random, Report& report) {
  const int64_t width = int64_t{c.heads + 2 * c.kv_heads} * c.head, layers = 2;
  const int64_t pages = (c.rows + gpu::kPagePositions - 1) / gpu::kPagePositions;
  const int64_t head_words = gpu::head_words(c.type, c.head), page_words = layers * c.kv_heads * head_words;
  const RowsOf x(c.rows, width, 3, &random), y(c.rows, int64_t{c.heads} * c.head, 1, nullptr);
  const std::vector<float> sinks = random.normals(size(c.heads));
  std::vector<float> angles(size(c.rows * c.turned));
  for (int p = 0; p < c.rows; ++p)
    for (int i = 0; i < c.turned / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / c.turned);
      angles[size(p * c.turned + i)] = static_cast<float>(std::cos(angle));
      angles[size(p * c.turned + c.turned / 2 + i)] = static_cast<float>(std::sin(angle));
    }
  const Buffer<float> d_sinks(sinks), d_angles(angles);
  std::vector<std::unique_ptr<Buffer<uint32_t>>> memory;
  std::vector<std::byte*> page_list;
  for (int64_t i = 0; i < pages; ++i) {
    memory.push_back(std::make_unique<Buffer<uint32_t>>(size(page_words)));
    page_list.push_back(reinterpret_cast<std::byte*>(memory.back()->get()));
  }
  const Buffer<std::byte*> d_pages(page_list);
  std::vector<gpu::RowPlace> places;
  for (int p = 0; p < c.rows; ++p) places.push_back({d_pages.get(), d_angles.get() + p * c.turned, p});
  const Buffer<gpu::RowPlace> d_places(places);
  gpu::AttentionArguments a;
  a.projected = x.device->get();
  a.attended = y.device->get();
  a.places = d_places.get();
  a.sinks = c.sinks ? d_sinks.get() : nullptr;
  a.type = c.type;
  a.rows = c.rows;
  a.projected_stride = x.stride;
  a.attended_stride = y.stride;
  a.heads = c.heads;
  a.kv_heads = c.kv_heads;
  a.head = c.head;
  a.query_stride = a.key_stride = c.head;
  a.key_at = c.heads * c.head;
  a.value_after_key = c.kv_heads * c.head;
  a.first_word = (layers - 1) * c.kv_heads * head_words;
  a.most_pages = pages;
  a.turned = c.turned;
  a.window = c.window;
  a.scale = 1 / std::sqrt(static_cast<float>(c.head));
  a.softcap = c.softcap;
  gpu::launch_attention(a, 1);
  synchronize();
  const std::vector<float> got = y.device->read();
  // The same bits in tiles, in two pieces of which the second begins anywhere in a page. Then with a row that
  // is no number: only those that see it change.
  const int first_piece = c.rows * 2 / 5, bad = c.rows / 2;
  RowsOf broken = x.copy();
  std::fill_n(broken.values.begin() + bad * x.stride, width, NAN);
  broken.device = std::make_unique<Buffer<float>>(broken.values);
  std::vector<float> tiled[2];
  bool whole = y.whole(got);
  for (const bool breaks : {false, true}) {
    const RowsOf to(c.rows, int64_t{c.heads} * c.head, 1, nullptr);
    for (const auto& [first, last] : {std::pair<int, int>{0, first_piece}, {first_piece, c.rows}}) {
      gpu::AttentionArguments part = a;
      part.projected = (breaks ? broken : x).device->get() + first * x.stride;
      part.attended = to.device->get() + first * y.stride;
      part.places = d_places.get() + first;
      part.rows = last - first;
      part.one_sequence = true;
      with_cache(c.type, [&](auto type) {
        gpu::store_keys<decltype(type)::value>(part);
        gpu::attend_in_tiles<decltype(type)::value>(part, 1);
      });
    }
    synchronize();
    tiled[breaks] = to.device->read();
    whole = whole && to.whole(tiled[breaks]);
  }
  const bool same = std::memcmp(tiled[0].data(), got.data(), got.size() * 4) == 0;
  bool apart = true;
  for (int row = 0; row < c.rows; ++row)
    for (int64_t i = 0; i < y.width; ++i) {
      const float value = tiled[1][size(row * y.stride + i)];
      const bool sees = row >= bad && (c.window == 0 || row < bad + c.window);
      apart = apart && (sees ? std::isnan(value) : value == got[size(row * y.stride + i)]);
    }
  const auto element = [&](int row, int which, int d) {
    const int half = c.turned / 2, at = which * c.head;
    if (d >= c.turned) return x.at(row, at + d);
    const double angle = row * std::pow(10000.0, -2.0 * (d % half) / c.turned);
    const double first = x.at(row, at + d % half), second = x.at(row, at + d % half + half);
    return d < half ? first * std::cos(angle) - second * std::sin(angle)
                    : second * std::cos(angle) + first * std::sin(angle);
  };
  Errors errors;
  for (int row = 0; row < c.rows; ++row)
    for (int head = 0; head < c.heads; ++head) {
      const int kv = head / (c.heads / c.kv_heads),
                first = c.window > 0 ? std::max(0, row - c.window + 1) : 0;
      std::vector<double> scores;
      double largest = c.sinks ? double{sinks[size(head)]} : -1e30;
      for (int p = first; p <= row; ++p) {
        double score = 0;
        for (int d = 0; d < c.head; ++d) score += element(row, head, d) * element(p, c.heads + kv, d);
        score /= std::sqrt(static_cast<double>(c.head));
        if (c.softcap > 0) score = double{c.softcap} * std::tanh(score / double{c.softcap});
        scores.push_back(score);
        largest = std::max(largest, score);
      }
      double total = c.sinks ? std::exp(double{sinks[size(head)]} - largest) : 0;
      for (double& score : scores) total += score = std::exp(score - largest);
      for (int d = 0; d < c.head; ++d) {
        double value = 0, magnitudes = 0;
        for (int p = first; p <= row; ++p) {
          const double term =
              scores[size(p - first)] / total * x.at(p, int64_t{c.heads + c.kv_heads + kv} * c.head + d);
          value += term;
          magnitudes += std::fabs(term);
        }
        // Steps of a 127th of the largest number, near 2 of normal ones.
        if (c.type == gpu::Cache::kInt8) magnitudes += 1;
        errors.take(double{got[size(row * y.stride + head * c.head + d)]}, value, magnitudes);
      }
    }
  for (const auto& page : memory) whole = whole && page->guards_whole();
  // What a cache rounds off keys moves scores of a few units, and those the weights of the values.
  const double bound = c.type == gpu::Cache::kF32 ? 1e-5 : c.type == gpu::Cache::kF16 ? 5e-3 : 3e-2;
  const double rms = c.type == gpu::Cache::kF32 ? 2e-6 : c.type == gpu::Cache::kF16 ? 1e-3 : 2e-2;
  static const char* const kTypes[] = {"f32", "f16", "int8"};
  char name[128];
  std::snprintf(name, sizeof name, "attention %d rows, %d/%d heads of %d in %s, window %d%s%s", c.rows,
                c.heads, c.kv_heads, c.head, kTypes[static_cast<int>(c.type)], c.window,
                c.softcap > 0 ? ", capped" : "", c.sinks ? ", sinks" : "");
  report.add(
      name, errors.within(bound, rms) && whole && same && apart,
      errors.text() + (same ? "" : ", other bits in tiles") + (apart ? "" : ", a row that others see"));
}

inline void check_attention(bool large, Random& random, Report& report) {
  using gpu::Cache;
  check_attention({Cache::kF32, 4, 2, 64, 64, 0, 0, false, 21}, random, report);
  check_attention({Cache::kF16, 3, 1, 96, 48, 5, 0, true, 33}, random, report);
  check_attention({Cache::kF16, 2, 1, 16, 16, 0, 20, false, 140}, random, report);
  check_attention({Cache::kInt8, 2, 2, 37, 0, 130, 0, false, 150}, random, report);
  // Each number of words that a lane may have, more query heads than a warp has queries.
  for (const int head : {7, 33, 100, 130, 257})
    check_attention({Cache::kF32, 2, 1, head, 0, 0, 0, false, 9}, random, report);
  for (const int head : {130, 300})
    check_attention({Cache::kF16, 1, 1, head, 10, 3, 0, false, 11}, random, report);
  for (const int head : {132, 260})
    check_attention({Cache::kInt8, 1, 1, head, 10, 0, 9, true, 10}, random, report);
  check_attention({Cache::kF16, 22, 2, 20, 20, 0, 0, true, 14}, random, report);
  if (!large) return;
  check_attention({Cache::kF16, 8, 2, 128, 128, 0, 0, false, 1200}, random, report);
  check_attention({Cache::kF32, 2, 2, 512, 512, 0, 0, false, 30}, random, report);
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_ATTENTION_H_
