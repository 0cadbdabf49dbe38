// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_REFERENCE_GEMM_H_
#define NFLOAT_TESTS_REFERENCE_GEMM_H_

#include <cmath>
#include <cstdint>
#include <vector>

// Activations times weights, written out in double precision: the oracle of every target.
namespace nfloat::reference {

struct Product {
  std::vector<double> y;          // [m, n]
  std::vector<double> magnitude;  // the sum of the absolute products
};

inline Product multiply(const std::vector<float>& x, const std::vector<float>& weights,
                        const std::vector<float>& bias, int64_t m, int64_t n, int64_t k) {
  Product result;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0.0 : double{bias[static_cast<size_t>(j)]};
      double magnitude = std::fabs(sum);
      for (int64_t c = 0; c < k; ++c) {
        const double product =
            double{x[static_cast<size_t>(i * k + c)]} * double{weights[static_cast<size_t>(j * k + c)]};
        sum += product;
        magnitude += std::fabs(product);
      }
      result.y.push_back(sum);
      result.magnitude.push_back(magnitude);
    }
  return result;
}

// Root mean square of y - expected over that of expected.
inline double relative_rms(const std::vector<float>& y, const std::vector<double>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (y[i] - expected[i]) * (y[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return size > 0 ? std::sqrt(error / size) : std::sqrt(error);
}

}  // namespace nfloat::reference

#endif  // NFLOAT_TESTS_REFERENCE_GEMM_H_
