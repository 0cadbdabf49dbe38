// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TENSOR_ORTHONORMAL_H_
#define NFLOAT_TENSOR_ORTHONORMAL_H_

#include <cstdint>
#include <span>
#include <vector>

namespace nfloat {

// Makes rows [count][width] orthonormal in place, in their order: Gram and Schmidt, twice. A row of which the
// earlier ones leave less than a millionth becomes zero. Returns the numbers of the others, ascending.
std::vector<int64_t> orthonormalize_rows(std::span<double> rows, int64_t width);

}  // namespace nfloat

#endif  // NFLOAT_TENSOR_ORTHONORMAL_H_
