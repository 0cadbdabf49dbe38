// SPDX-License-Identifier: Apache-2.0
#include "calibrate/inputs.h"

#include <algorithm>

#include "calibrate/products.h"
#include "tensor/transpose.h"

namespace nfloat {
namespace {

constexpr int64_t kPortion = 2048;  // rows multiplied together in float32; sums of portions are double

}  // namespace

void ProductSums::add(const ActivationRows& a, const ActivationRows* b) {
  if (width_ == 0) {
    width_ = a.width;
    two_ = b != nullptr;
    sums_.assign(static_cast<size_t>(width_ * width_), 0.0);
  }
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* from = a.data + row * a.stride;
    a_.insert(a_.end(), from, from + width_);
    if (two_) b_.insert(b_.end(), b->data + row * b->stride, b->data + row * b->stride + width_);
    ++rows_;
    if (++pending_ == kPortion) flush();
  }
}

void ProductSums::flush() {
  if (pending_ == 0) return;
  const std::vector<float> a = transposed(a_, pending_, width_);
  std::vector<float> b;
  if (two_) b = transposed(b_, pending_, width_);
  std::vector<float> portion(sums_.size());
  product_with_transpose(a, width_, two_ ? b : a, width_, pending_, portion, threads_);
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += static_cast<double>(portion[i]);
  a_.clear();
  b_.clear();
  pending_ = 0;
}

const std::vector<double>& ProductSums::sums() {
  flush();
  return sums_;
}

std::vector<float> ProductSums::mean() {
  flush();
  std::vector<float> result(sums_.size());
  const double count = static_cast<double>(std::max<int64_t>(1, rows_));
  for (size_t i = 0; i < sums_.size(); ++i) result[i] = static_cast<float>(sums_[i] / count);
  return result;
}

}  // namespace nfloat
