// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TENSOR_TRANSPOSE_H_
#define NFLOAT_TENSOR_TRANSPOSE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nfloat {

// to [columns][rows] = the transpose of from [rows][columns]: elements of 1, 2, 4 or 8 bytes, any alignment.
// The two do not overlap.
void transpose(const std::byte* from, std::byte* to, int64_t rows, int64_t columns, size_t element_bytes);

inline std::vector<float> transposed(std::span<const float> from, int64_t rows, int64_t columns) {
  std::vector<float> to(from.size());
  transpose(std::as_bytes(from).data(), std::as_writable_bytes(std::span(to)).data(), rows, columns,
            sizeof(float));
  return to;
}

}  // namespace nfloat

#endif  // NFLOAT_TENSOR_TRANSPOSE_H_
