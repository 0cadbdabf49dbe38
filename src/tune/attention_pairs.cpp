// SPDX-License-Identifier: Apache-2.0
// Attention of documents in pairs of bf16 (kernels/train.h): weights and their gradients are rounded, sums
// are float32.
#include <algorithm>
#include <cstring>

#include "kernels/dispatch.h"
#include "linear/transposed.h"
#include "tune/attention_rows.h"

namespace nfloat {
namespace {

constexpr int64_t kStripColumns = 32;  // columns that the products of pairs take together

int64_t whole_strips(int64_t columns) noexcept {
  return (columns + kStripColumns - 1) / kStripColumns * kStripColumns;
}

// What a thread needs, in order, in words of four bytes.
struct Scratch {
  Scratch(int64_t head_dim, int64_t length, bool capped) noexcept
      : positions(whole_strips(length)),
        width(whole_strips(head_dim)),
        half_stride(pair_row_stride(positions)) {
    const int64_t turned = positions * head_dim / 2, rows = positions / 2 * width;
    keys = take(turned);
    values = take(turned);
    row_pairs = take(rows);
    d_keys = take(positions * width);
    d_values = take(positions * width);
    block = take(kScoreRows / 2 * width);
    d_block = take(kScoreRows / 2 * width);
    scores = take(kScoreRows * positions);
    gradients = take(kScoreRows * positions);
    slopes = take(capped ? positions : 0);
    score_pairs = take(kScoreRows / 2 * positions);
    gradient_pairs = take(kScoreRows / 2 * positions);
    halves = take(kScoreRows * half_stride / 2);
    out = take(kScoreRows * width);
    row = take(2 * head_dim);
  }
  int64_t positions, width, half_stride, words = 0;
  int64_t keys, values;      // [strip of positions][head_dim / 2][32]
  int64_t row_pairs;         // [strip of head_dim][positions / 2][32], of values forwards, of keys backwards
  int64_t d_keys, d_values;  // [positions][width]
  int64_t block, d_block;  // [strip of head_dim][kScoreRows / 2][32]: queries, gradients of what is attended
  int64_t scores, gradients;            // [kScoreRows][positions]
  int64_t slopes;                       // of one row
  int64_t score_pairs, gradient_pairs;  // [kScoreRows / 2][positions]
  int64_t halves;                       // bf16 [kScoreRows][half_stride]
  int64_t out;                          // [kScoreRows][width]
  int64_t row;

 private:
  int64_t take(int64_t count) noexcept {
    const int64_t begin = words;
    words += (count + 15) / 16 * 16;
    return begin;
  }
};

// One document and key-value head. Blocks of queries see the positions [low, high) of it; low is the first of
// a strip.
class PairUnit {
 public:
  PairUnit(const AttentionLayer& layer, const Document& document, int64_t kv_head, HalfRows projected,
           float* memory) noexcept
      : layer_(layer),
        places_(layer.places),
        document_(document),
        kv_head_(kv_head),
        projected_{projected.at(document.begin), projected.stride},
        at_(places_.head_dim, document.length, layer.softcap > 0),
        memory_(memory),
        scores_(memory + at_.scores),
        gradients_(memory + at_.gradients) {}

  void forward(HalfRows attended, float* log_sums) noexcept {
    turn(places_.key(kv_head_), words(at_.keys));
    pair(projected_, 0, document_.length, places_.value(kv_head_), at_.positions, words(at_.row_pairs));
    over_blocks([&](int64_t head) {
      score(projected_.pairs(first_, places_.query(head)), projected_.pair_stride(), at_.keys, scores_);
      for (int64_t i = 0; i < rows_; ++i) {
        log_sums[(document_.begin + first_ + i) * places_.heads + head] =
            weigh_row(layer_, head, seen(i), scores_ + i * at_.positions);
        pairs_.round_row(scores_ + i * at_.positions, seen_, half_row(i));
      }
      along_positions({attended.at(document_.begin + first_, head * places_.head_dim), attended.stride});
    });
  }

  void backward(HalfRows attended, const float* log_sums, HalfRows d_attended, HalfRows gradient) noexcept {
    turn(places_.key(kv_head_), words(at_.keys));
    turn(places_.value(kv_head_), words(at_.values));
    pair(projected_, 0, document_.length, places_.key(kv_head_), at_.positions, words(at_.row_pairs));
    gradient.data = gradient.at(document_.begin);
    const auto clear = static_cast<size_t>(at_.positions * at_.width) * sizeof(float);
    std::memset(memory_ + at_.d_keys, 0, clear);
    std::memset(memory_ + at_.d_values, 0, clear);
    over_blocks([&](int64_t head) {
      const int64_t row = document_.begin + first_, column = head * places_.head_dim;
      pair(projected_, first_, rows_, places_.query(head), kScoreRows, words(at_.block));
      pair(d_attended, row, rows_, column, kScoreRows, words(at_.d_block));
      score(projected_.pairs(first_, places_.query(head)), projected_.pair_stride(), at_.keys, scores_);
      // dP = dO V^T
      score(d_attended.pairs(row, column), d_attended.pair_stride(), at_.values, gradients_);
      for (int64_t i = 0; i < rows_; ++i)
        weigh_row_back(layer_, seen(i), log_sums[(row + i) * places_.heads + head],
                       product_of(attended.at(row + i, column), d_attended.at(row + i, column)),
                       scores_ + i * at_.positions, gradients_ + i * at_.positions, memory_ + at_.slopes);
      if (rows_ % 2 != 0)
        for (float* none : {scores_, gradients_}) std::fill_n(none + rows_ * at_.positions, seen_, 0.0f);
      for (int64_t i = 0; i < rows_; i += 2)
        for (const auto& [from, to] :
             {std::pair(scores_, at_.score_pairs), std::pair(gradients_, at_.gradient_pairs)})
          pairs_.pair_floats(from + i * at_.positions, from + (i + 1) * at_.positions, seen_,
                             words(to) + i / 2 * at_.positions);
      accumulate(at_.score_pairs, at_.d_block, at_.d_values);
      accumulate(at_.gradient_pairs, at_.block, at_.d_keys);
      for (int64_t i = 0; i < rows_; ++i)
        pairs_.round_row(gradients_ + i * at_.positions, seen_, half_row(i));
      along_positions({gradient.at(first_, places_.query(head)), gradient.stride});
    });
    for (int64_t t = 0; t < document_.length; ++t) {
      pairs_.round_row(memory_ + at_.d_keys + t * at_.width, places_.head_dim,
                       gradient.at(t, places_.key(kv_head_)));
      pairs_.round_row(memory_ + at_.d_values + t * at_.width, places_.head_dim,
                       gradient.at(t, places_.value(kv_head_)));
    }
  }

 private:
  uint32_t* words(int64_t at) const noexcept { return reinterpret_cast<uint32_t*>(memory_ + at); }
  uint16_t* half_row(int64_t i) const noexcept {
    return reinterpret_cast<uint16_t*>(memory_ + at_.halves) + i * at_.half_stride;
  }

  // Heads to strips of positions, their pairs below one another; zero behind the last position.
  void turn(int64_t place, uint32_t* to) const noexcept {
    const int64_t pairs = places_.head_dim / 2;
    for (int64_t t = 0; t < at_.positions; t += kStripColumns, to += pairs * kStripColumns)
      pairs_.turn_pairs(projected_.pairs(t, place), projected_.pair_stride(),
                        std::min(kStripColumns, document_.length - t), pairs, to);
  }

  // Rows of a head to strips of its dimensions, pairs of rows, zero up to `all` rows.
  void pair(HalfRows from, int64_t row, int64_t rows, int64_t place, int64_t all,
            uint32_t* to) const noexcept {
    const int64_t written = (rows + 1) / 2;
    for (int64_t d = 0; d < places_.head_dim; d += kStripColumns, to += all / 2 * kStripColumns) {
      pairs_.pair_rows(from.at(row, place + d), from.stride, rows,
                       std::min(kStripColumns, places_.head_dim - d), to);
      std::fill_n(to + written * kStripColumns, (all / 2 - written) * kStripColumns, 0u);
    }
  }

  template <typename Body>
  void over_blocks(const Body& body) noexcept {
    const int64_t group = places_.heads / places_.kv_heads;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head)
      for (first_ = 0; first_ < document_.length; first_ += kScoreRows) {
        rows_ = std::min(kScoreRows, document_.length - first_);
        low_ = first_seen(layer_, first_) / kStripColumns * kStripColumns;
        seen_ = whole_strips(first_ + rows_) - low_;
        body(head);
      }
  }

  SeenRow seen(int64_t i) const noexcept {
    return {first_seen(layer_, first_ + i) - low_, first_ + i + 1 - low_, seen_};
  }

  // to[i][t] = products of the block's rows with those of all positions it sees.
  void score(const uint32_t* rows, int64_t stride, int64_t turned, float* to) const noexcept {
    const int64_t pairs = places_.head_dim / 2;
    for (int64_t t = 0; t < seen_; t += kStripColumns)
      pairs_.product({.a = rows,
                      .a_row = stride,
                      .b = words(turned) + (low_ + t) * pairs,
                      .b_row = kStripColumns,
                      .c = to + t,
                      .c_stride = at_.positions,
                      .m = rows_,
                      .n = kStripColumns,
                      .pairs = pairs});
  }

  // to = the rounded rows times `row_pairs`.
  void along_positions(HalfRows to) const noexcept {
    float* out = memory_ + at_.out;
    for (int64_t d = 0; d < at_.width; d += kStripColumns)
      pairs_.product({.a = reinterpret_cast<const uint32_t*>(half_row(0)),
                      .a_row = at_.half_stride / 2,
                      .b = words(at_.row_pairs) + d * (at_.positions / 2) + low_ / 2 * kStripColumns,
                      .b_row = kStripColumns,
                      .c = out + d,
                      .c_stride = at_.width,
                      .m = rows_,
                      .n = kStripColumns,
                      .pairs = seen_ / 2});
    for (int64_t i = 0; i < rows_; ++i) pairs_.round_row(out + i * at_.width, places_.head_dim, to.at(i));
  }

  // to[low, high) += weights^T of the block's rows.
  void accumulate(int64_t weights, int64_t rows, int64_t to) const noexcept {
    for (int64_t d = 0; d < at_.width; d += kStripColumns)
      pairs_.product({.a = words(weights),
                      .a_row = 1,
                      .a_column = at_.positions,
                      .b = words(rows) + d * (kScoreRows / 2),
                      .b_row = kStripColumns,
                      .c = memory_ + to + low_ * at_.width + d,
                      .c_stride = at_.width,
                      .m = seen_,
                      .n = kStripColumns,
                      .pairs = (rows_ + 1) / 2,
                      .accumulate = true});
  }

  float product_of(const uint16_t* x, const uint16_t* y) const noexcept {
    float *a = memory_ + at_.row, *b = a + places_.head_dim;
    pairs_.widen_row(x, places_.head_dim, a);
    pairs_.widen_row(y, places_.head_dim, b);
    return train_.dot(a, b, places_.head_dim);
  }

  const kernels::TrainKernels& train_ = kernels::table().train;
  const kernels::PairKernels& pairs_ = *kernels::table().train.pairs;
  const AttentionLayer& layer_;
  const HeadPlaces& places_;
  const Document& document_;
  int64_t kv_head_;
  HalfRows projected_;  // of the document
  Scratch at_;
  float *memory_, *scores_, *gradients_;
  int64_t first_ = 0, rows_ = 0, low_ = 0, seen_ = 0;
};

template <typename Body>
void over_pair_units(const AttentionLayer& layer, HalfRows projected, const Body& body) {
  const size_t bytes =
      pair_attention_bytes(layer.places.head_dim, longest_document(layer), layer.softcap > 0);
  over_kv_heads(layer, bytes, [&](const Document& document, int64_t kv_head, float* scratch) {
    PairUnit unit(layer, document, kv_head, projected, scratch);
    body(unit);
  });
}

}  // namespace

size_t pair_attention_bytes(int64_t head_dim, int64_t length, bool capped) noexcept {
  return static_cast<size_t>(Scratch(head_dim, length, capped).words) * sizeof(float);
}

void attend_documents(const AttentionLayer& layer, HalfRows projected, HalfRows attended, float* log_sums) {
  over_pair_units(layer, projected, [&](PairUnit& unit) { unit.forward(attended, log_sums); });
}

void attend_backward(const AttentionLayer& layer, HalfRows projected, HalfRows attended,
                     const float* log_sums, HalfRows d_attended, HalfRows gradient) {
  over_pair_units(layer, projected,
                  [&](PairUnit& unit) { unit.backward(attended, log_sums, d_attended, gradient); });
}

}  // namespace nfloat
