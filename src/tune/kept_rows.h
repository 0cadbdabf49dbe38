// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_KEPT_ROWS_H_
#define NFLOAT_TUNE_KEPT_ROWS_H_

#include <cstdint>

#include "kernels/dispatch.h"

namespace nfloat {

// Rows of bf16, an even number of halves apart, so that they are read as pairs.
struct HalfRows {
  uint16_t* data = nullptr;
  int64_t stride = 0;

  uint16_t* at(int64_t row, int64_t column = 0) const noexcept { return data + row * stride + column; }
  const uint32_t* pairs(int64_t row, int64_t column = 0) const noexcept {
    return reinterpret_cast<const uint32_t*>(at(row, column));
  }
  int64_t pair_stride() const noexcept { return stride / 2; }
};

// Rows that a pass keeps, of float32 or, on targets that multiply pairs of it, of bf16: a row is made in
// place() and put(), and what read() gives is the same then and later.
struct KeptRows {
  float* data = nullptr;
  uint16_t* half = nullptr;
  int64_t stride = 0;

  bool is_kept() const noexcept { return data != nullptr || half != nullptr; }
  HalfRows halves() const noexcept { return {half, stride}; }

  // `count` numbers of a row from `column` on; float32 lies where it is, the others come to `scratch`.
  const float* read(int64_t row, int64_t column, int64_t count, float* scratch) const noexcept {
    if (half == nullptr) return data + row * stride + column;
    kernels::table().train.pairs->widen_row(half + row * stride + column, count, scratch);
    return scratch;
  }
  float* place(int64_t row, int64_t column, float* scratch) const noexcept {
    return half == nullptr ? data + row * stride + column : scratch;
  }
  void put(int64_t row, int64_t column, int64_t count, const float* values) const noexcept {
    if (half != nullptr) kernels::table().train.pairs->round_row(values, count, half + row * stride + column);
  }
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_KEPT_ROWS_H_
