// SPDX-License-Identifier: Apache-2.0
#include "calibrate/inputs.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/parallel.h"
#include "calibrate/cancel.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int64_t kStep = 256;  // of them whose columns stay in the nearest cache
constexpr int64_t kTile = 32;   // rows and columns of the sums

// For a handful: a call of memcpy takes longer.
inline void copy_few(const float* from, int64_t count, float* to) noexcept {
  int64_t i = 0;
  for (; i + 2 <= count; i += 2) std::memcpy(to + i, from + i, 2 * sizeof(float));
  if (i < count) to[i] = from[i];
}

}  // namespace

void ProductSums::add(const ActivationRows& a, const ActivationRows* b) {
  if (width_ == 0) {
    width_ = a.width;
    two_ = b != nullptr;
    sums_.assign(static_cast<size_t>(width_ * width_), 0.0f);
    a_.reserve(static_cast<size_t>(kPortion * width_));
    if (two_) b_.reserve(a_.capacity());
  }
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* from = a.data + row * a.stride;
    a_.insert(a_.end(), from, from + width_);
    if (two_) b_.insert(b_.end(), b->data + row * b->stride, b->data + row * b->stride + width_);
    ++rows_;
    if (++pending_ == kPortion) flush();
  }
}

// The rows multiplied with each other in panels of columns; of a a^T the upper triangle only.
void ProductSums::flush() {
  if (pending_ == 0) return;
  const kernels::TrainKernels& kernels = kernels::table().train;
  const int64_t group = kernels.product_rows, panel = kernels.product_columns;
  const int64_t groups = (width_ + group - 1) / group, panels = (width_ + panel - 1) / panel;
  const auto pack = [&](const std::vector<float>& rows, int64_t first, int64_t size, float* to) {
    const int64_t count = std::min(size, width_ - first);
    const float* from = rows.data() + first;
    for (int64_t row = 0; row < pending_; ++row, from += width_, to += size) copy_few(from, count, to);
  };
  packed_.resize(static_cast<size_t>(groups * pending_ * group));
  parallel_for(groups, 4, threads_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pack(a_, i * group, group, packed_.data() + i * pending_ * group);
  });
  const Cancel cancel;
  parallel_for(panels, 1, threads_, [&](int64_t begin, int64_t end) {
    std::vector<float> own(static_cast<size_t>(pending_ * panel)),
        portion(static_cast<size_t>(group * panel));
    for (int64_t i = begin; i < end && !cancel.asked(); ++i) {
      // The later a panel of a triangle, the longer it takes: the longest begin first.
      const int64_t column = (panels - 1 - i) * panel, columns = std::min(panel, width_ - column);
      pack(two_ ? b_ : a_, column, panel, own.data());
      const int64_t last = two_ ? width_ : column + columns;
      for (int64_t row = 0; row < last; row += group) {
        const int64_t rows = std::min(group, width_ - row);
        for (int64_t k = 0; k < pending_; k += kStep)
          kernels.product({.a = packed_.data() + (row / group * pending_ + k) * group,
                           .a_row = 1,
                           .a_column = group,
                           .b = own.data() + k * panel,
                           .b_stride = panel,
                           .c = portion.data(),
                           .c_stride = panel,
                           .m = rows,
                           .n = columns,
                           .k = std::min(kStep, pending_ - k),
                           .accumulate = k > 0});
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c)
            sums_[static_cast<size_t>((row + r) * width_ + column + c)] +=
                portion[static_cast<size_t>(r * panel + c)];
      }
    }
  });
  cancel.expect_none();
  a_.clear();
  b_.clear();
  pending_ = 0;
  whole_ = two_;
}

// The lower triangle of a a^T from the upper one, in tiles that stay in the nearest cache.
void ProductSums::mirror() {
  if (whole_) return;
  const int64_t tiles = (width_ + kTile - 1) / kTile;
  parallel_for(tiles, 1, threads_, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = (tiles - 1 - tile) * kTile, last = std::min(width_, first + kTile);
      for (int64_t column = 0; column < last; column += kTile)
        for (int64_t i = first; i < last; ++i)
          for (int64_t j = column; j < std::min(i, column + kTile); ++j)
            sums_[static_cast<size_t>(i * width_ + j)] = sums_[static_cast<size_t>(j * width_ + i)];
    }
  });
  whole_ = true;
}

const std::vector<float>& ProductSums::sums() {
  flush();
  mirror();
  return sums_;
}

std::vector<float> ProductSums::mean() {
  std::vector<float> result = sums();
  const auto count = static_cast<float>(std::max<int64_t>(1, rows_));
  for (float& value : result) value /= count;
  return result;
}

std::vector<float> ProductSums::take_mean() {
  sums();
  for (std::vector<float>* rows : {&a_, &b_, &packed_}) *rows = std::vector<float>();
  const auto count = static_cast<float>(std::max<int64_t>(1, rows_));
  for (float& value : sums_) value /= count;
  return std::exchange(sums_, {});
}

}  // namespace nfloat
