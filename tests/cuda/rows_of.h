// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CUDA_ROWS_OF_H_
#define NFLOAT_TESTS_CUDA_ROWS_OF_H_

#include <memory>

#include "conformance.h"

namespace conformance {

inline size_t size(int64_t count) {
  return static_cast<size_t>(count);
}

// Rows that lie `stride` apart in memory that ends with the last one; NaN between them.
struct RowsOf {
  int64_t rows, width, stride;
  std::vector<float> values;  // as they lie
  std::unique_ptr<Buffer<float>> device;

  RowsOf(int64_t r, int64_t w, int64_t gap, Random* random, float scale = 1)
      : rows(r), width(w), stride(w + gap), values(size((r - 1) * (w + gap) + w), NAN) {
    for (int64_t row = 0; random != nullptr && row < r; ++row)
      for (int64_t i = 0; i < w; ++i) values[size(row * stride + i)] = scale * random->normal();
    device = std::make_unique<Buffer<float>>(values);
  }
  RowsOf copy() const {
    RowsOf made(rows, width, stride - width, nullptr);
    made.values = values;
    return made;
  }
  double at(int64_t row, int64_t i) const { return double{values[size(row * stride + i)]}; }
  // What lies between rows, and around all of them, is as it was.
  bool whole(const std::vector<float>& got) const {
    bool good = device->guards_whole();
    for (int64_t row = 0; row + 1 < rows; ++row)
      for (int64_t i = width; i < stride; ++i) good = good && std::isnan(got[size(row * stride + i)]);
    return good;
  }
};

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_ROWS_OF_H_
