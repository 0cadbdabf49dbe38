// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_PRODUCTS_H_
#define NFLOAT_CALIBRATE_PRODUCTS_H_

#include <cstdint>
#include <span>

namespace nfloat {

// y [m][n] = a [m][k] b, in float32, without a copy of b: [k][n], or its transpose [n][k]. The same for every
// number of threads.
void product(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n, int64_t k,
             std::span<float> y, int threads);
void product_with_transpose(std::span<const float> a, int64_t m, std::span<const float> b, int64_t n,
                            int64_t k, std::span<float> y, int threads);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_PRODUCTS_H_
