// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_INPUTS_H_
#define NFLOAT_CALIBRATE_INPUTS_H_

#include <cstdint>
#include <map>
#include <vector>

#include "engine/linear_id.h"

namespace nfloat {

// Sums of products of activation rows in float32, in portions of fixed size, so that neither threads nor the
// cutting of batches change them, and rounding grows with their number only.
class ProductSums {
 public:
  static constexpr int64_t kPortion = 2048;  // rows multiplied together

  explicit ProductSums(int threads) noexcept : threads_(threads) {}

  // Adds a b^T of each pair of rows; `b` null: a a^T.
  void add(const ActivationRows& a, const ActivationRows* b = nullptr);
  int64_t rows() const noexcept { return rows_; }
  int64_t width() const noexcept { return width_; }
  // The mean over the rows, [width][width].
  std::vector<float> mean();
  // The same, in the memory of the sums, which are gone; rows() and width() stay.
  std::vector<float> take_mean();
  // The sums themselves.
  const std::vector<float>& sums();

 private:
  void flush();
  void mirror();

  const int threads_;
  int64_t rows_ = 0, width_ = 0, pending_ = 0;
  std::vector<float> a_, b_;   // [pending][width]
  std::vector<float> packed_;  // columns of a_ in the groups of the kernel
  bool two_ = false;
  bool whole_ = true;  // false: of a a^T only the upper triangle is summed
  std::vector<float> sums_;
};

// Collects x x^T of every product of a layer.
class HessianCollector : public LinearObserver {
 public:
  explicit HessianCollector(int threads) noexcept : threads_(threads) {}
  void input(const LinearId& id, const ActivationRows& x) override {
    if (id.role == LinearRole::kRouter) return;
    sums.try_emplace(id, threads_).first->second.add(x);
  }

  std::map<LinearId, ProductSums> sums;

 private:
  const int threads_;
};

// Keeps the rows of a chunk that one product of a layer sees, in order.
class RowKeeper : public LinearObserver {
 public:
  explicit RowKeeper(LinearRole wanted) noexcept : role(wanted) {}
  void input(const LinearId& id, const ActivationRows& x) override {
    if (id.role != role) return;
    width = x.width;
    for (int64_t row = 0; row < x.rows; ++row)
      rows.insert(rows.end(), x.data + row * x.stride, x.data + row * x.stride + x.width);
  }
  void begin_chunk() noexcept { rows.clear(); }

  const LinearRole role;
  int64_t width = 0;
  std::vector<float> rows;
};

// Sums y y^T and x y^T over the rows y that one product sees and those that were kept of it before.
class PairCollector : public LinearObserver {
 public:
  PairCollector(const RowKeeper& kept, int threads) noexcept : own(threads), cross(threads), kept_(kept) {}
  void input(const LinearId& id, const ActivationRows& y) override {
    if (id.role != kept_.role) return;
    own.add(y);
    const ActivationRows x{kept_.rows.data() + at_ * kept_.width, kept_.width, y.rows, kept_.width};
    cross.add(x, &y);
    at_ += y.rows;
  }
  void begin_chunk() noexcept { at_ = 0; }

  ProductSums own, cross;

 private:
  const RowKeeper& kept_;
  int64_t at_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_INPUTS_H_
