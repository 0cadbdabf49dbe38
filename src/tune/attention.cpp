// SPDX-License-Identifier: Apache-2.0
#include "tune/attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/dispatch.h"
#include "tune/attention_rows.h"

namespace nfloat {
namespace {

int64_t padded(int64_t positions) noexcept {
  return (positions + 15) / 16 * 16;
}

// One document and key-value head. Blocks of queries see the positions [low, high) of it.
class Unit {
 public:
  Unit(const AttentionLayer& layer, const Document& document, int64_t kv_head, const float* projected,
       float* scratch) noexcept
      : layer_(layer),
        places_(layer.places),
        document_(document),
        kv_head_(kv_head),
        projected_(projected + document.begin * places_.row()),
        stride_(padded(document.length) + 16),
        keys_(scratch),
        values_(keys_ + places_.head_dim * stride_),
        scores_(values_ + places_.head_dim * stride_),
        gradients_(scores_ + kScoreRows * stride_) {}

  static size_t scratch_floats(int64_t head_dim, int64_t length) noexcept {
    return static_cast<size_t>((2 * head_dim + 3 * kScoreRows) * (padded(length) + 16));
  }

  void forward(float* attended, float* log_sums) noexcept {
    transpose(places_.key(kv_head_), keys_);
    const int64_t group = places_.heads / places_.kv_heads, width = places_.heads * places_.head_dim;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head)
      for (int64_t first = 0; first < document_.length; first += kScoreRows) {
        set_block(first);
        score(head);
        for (int64_t i = 0; i < rows_; ++i)
          log_sums[(document_.begin + first_ + i) * places_.heads + head] =
              weigh_row(layer_, head, seen(i), scores_ + i * stride_);
        train_.product({.a = scores_,
                        .a_row = stride_,
                        .a_column = 1,
                        .b = projected_ + low_ * places_.row() + places_.value(kv_head_),
                        .b_stride = places_.row(),
                        .c = attended + (document_.begin + first_) * width + head * places_.head_dim,
                        .c_stride = width,
                        .m = rows_,
                        .n = places_.head_dim,
                        .k = high_ - low_});
      }
  }

  void backward(const float* attended, const float* log_sums, const float* d_attended,
                float* gradient) noexcept {
    transpose(places_.key(kv_head_), keys_);
    transpose(places_.value(kv_head_), values_);
    gradient += document_.begin * places_.row();
    for (int64_t t = 0; t < document_.length; ++t)
      for (const int64_t place : {places_.key(kv_head_), places_.value(kv_head_)})
        std::memset(gradient + t * places_.row() + place, 0,
                    static_cast<size_t>(places_.head_dim) * sizeof(float));
    const int64_t group = places_.heads / places_.kv_heads, width = places_.heads * places_.head_dim;
    for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head)
      for (int64_t first = 0; first < document_.length; first += kScoreRows) {
        set_block(first);
        score(head);
        const float* d_out = d_attended + (document_.begin + first) * width + head * places_.head_dim;
        const float* out = attended + (document_.begin + first) * width + head * places_.head_dim;
        // dP = dO V^T
        train_.product({.a = d_out,
                        .a_row = width,
                        .a_column = 1,
                        .b = values_ + low_,
                        .b_stride = stride_,
                        .c = gradients_,
                        .c_stride = stride_,
                        .m = rows_,
                        .n = padded(high_ - low_),
                        .k = places_.head_dim});
        for (int64_t i = 0; i < rows_; ++i)
          weigh_row_back(layer_, seen(i), log_sums[(document_.begin + first_ + i) * places_.heads + head],
                         train_.dot(d_out + i * width, out + i * width, places_.head_dim),
                         scores_ + i * stride_, gradients_ + i * stride_,
                         gradients_ + (kScoreRows + i) * stride_);
        accumulate(scores_, d_out, width, gradient + places_.value(kv_head_));
        accumulate(gradients_, projected_ + first_ * places_.row() + places_.query(head), places_.row(),
                   gradient + places_.key(kv_head_));
        train_.product({.a = gradients_,
                        .a_row = stride_,
                        .a_column = 1,
                        .b = projected_ + low_ * places_.row() + places_.key(kv_head_),
                        .b_stride = places_.row(),
                        .c = gradient + first_ * places_.row() + places_.query(head),
                        .c_stride = places_.row(),
                        .m = rows_,
                        .n = places_.head_dim,
                        .k = high_ - low_});
      }
  }

 private:
  // [positions][head_dim] to [head_dim][stride], zero behind the last.
  void transpose(int64_t place, float* to) const noexcept {
    constexpr int64_t kTogether = 16;  // positions: as many lines are read, and as long ones written
    for (int64_t first = 0; first < document_.length; first += kTogether) {
      const int64_t count = std::min(kTogether, document_.length - first);
      for (int64_t d = 0; d < places_.head_dim; ++d)
        for (int64_t t = first; t < first + count; ++t)
          to[d * stride_ + t] = projected_[t * places_.row() + place + d];
    }
    for (int64_t d = 0; d < places_.head_dim; ++d)
      for (int64_t t = document_.length; t < stride_; ++t) to[d * stride_ + t] = 0;
  }

  void set_block(int64_t first) noexcept {
    first_ = first;
    rows_ = std::min(kScoreRows, document_.length - first);
    low_ = first_seen(layer_, first_);
    high_ = first + rows_;
  }
  SeenRow seen(int64_t i) const noexcept {
    return {first_seen(layer_, first_ + i) - low_, first_ + i + 1 - low_, padded(high_ - low_)};
  }

  void score(int64_t head) noexcept {
    train_.product({.a = projected_ + first_ * places_.row() + places_.query(head),
                    .a_row = places_.row(),
                    .a_column = 1,
                    .b = keys_ + low_,
                    .b_stride = stride_,
                    .c = scores_,
                    .c_stride = stride_,
                    .m = rows_,
                    .n = padded(high_ - low_),
                    .k = places_.head_dim});
  }

  // to[low, high) += weights^T rows, for the block's rows.
  void accumulate(const float* weights, const float* rows, int64_t rows_stride, float* to) noexcept {
    train_.product({.a = weights,
                    .a_row = 1,
                    .a_column = stride_,
                    .b = rows,
                    .b_stride = rows_stride,
                    .c = to + low_ * places_.row(),
                    .c_stride = places_.row(),
                    .m = high_ - low_,
                    .n = places_.head_dim,
                    .k = rows_,
                    .accumulate = true});
  }

  const kernels::TrainKernels& train_ = kernels::table().train;
  const AttentionLayer& layer_;
  const HeadPlaces& places_;
  const Document& document_;
  int64_t kv_head_;
  const float* projected_;  // of the document
  int64_t stride_;
  float *keys_, *values_;       // [head_dim][stride]
  float *scores_, *gradients_;  // [kScoreRows][stride]; behind the gradients as many slopes
  int64_t first_ = 0, rows_ = 0, low_ = 0, high_ = 0;
};

template <typename Body>
void over_units(const AttentionLayer& layer, const float* projected, const Body& body) {
  const size_t floats = Unit::scratch_floats(layer.places.head_dim, longest_document(layer));
  over_kv_heads(layer, floats * sizeof(float),
                [&](const Document& document, int64_t kv_head, float* scratch) {
                  Unit unit(layer, document, kv_head, projected, scratch);
                  body(unit);
                });
}

}  // namespace

HeadPlaces::HeadPlaces(const ModelConfig& config) noexcept
    : heads(config.heads),
      kv_heads(config.kv_heads),
      head_dim(config.head_dim),
      interleaved(config.interleaved_heads) {}

void attend_documents(const AttentionLayer& layer, const float* projected, float* attended, float* log_sums) {
  over_units(layer, projected, [&](Unit& unit) { unit.forward(attended, log_sums); });
}

void attend_backward(const AttentionLayer& layer, const float* projected, const float* attended,
                     const float* log_sums, const float* d_attended, float* gradient) {
  over_units(layer, projected, [&](Unit& unit) { unit.backward(attended, log_sums, d_attended, gradient); });
}

}  // namespace nfloat
