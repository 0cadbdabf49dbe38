// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include "c_api/support.h"

namespace nfloat::testing {
namespace {

using Codebook = Owned<nfloat_codebook, nfloat_codebook_free>;
using Quantized = Owned<nfloat_quantized_tensor, nfloat_quantized_tensor_free>;
using Matrix = Owned<nfloat_packed_matrix, nfloat_packed_matrix_free>;
using ActivationsHandle = Owned<nfloat_activations, nfloat_activations_free>;

nfloat_tensor matrix_of(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return {values.data(), NFLOAT_F32, 2, {rows, cols}};
}

std::vector<float> waves(int64_t count, float step) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(step * static_cast<float>(i));
  return values;
}

// Rows in whole panels and not, blocks that meet rows, cross them, begin inside octets.
struct Case {
  int64_t out, in, block_size;
  int32_t nested;
};
void PrintTo(const Case& c, std::ostream* stream) {
  *stream << c.out << "x" << c.in << " in blocks of " << c.block_size << (c.nested == 1 ? ", nested" : "");
}

class CMatrix : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    weights_ = waves(c.out * c.in, 0.7f);
    nfloat_error* error = nullptr;
    ASSERT_EQ(nfloat_make_codebook("nf4", 0, codebook_.place(), &error), NFLOAT_OK) << taken(error);
    nfloat_quantize_options options = defaults<nfloat_quantize_options>();
    options.block_size = c.block_size;
    options.double_quantization = c.nested;
    const nfloat_tensor from = matrix_of(weights_, c.out, c.in);
    ASSERT_EQ(nfloat_quantize_blockwise(&from, codebook_, &options, tensor_.place(), &error), NFLOAT_OK)
        << taken(error);
    view_.struct_size = sizeof view_;
    ASSERT_EQ(nfloat_quantized_tensor_view(tensor_, &view_, &error), NFLOAT_OK) << taken(error);
    ASSERT_EQ(nfloat_packed_matrix_pack(&view_, 1, matrix_.place(), &error), NFLOAT_OK) << taken(error);
  }
  std::vector<float> weights_;
  Codebook codebook_;
  Quantized tensor_;
  nfloat_quantized_view view_ = {};
  Matrix matrix_;
};

TEST_P(CMatrix, UnpackingGivesTheCodes) {
  std::vector<uint8_t> codes((weights_.size() + 1) / 2, 0xee);
  ASSERT_EQ(nfloat_packed_matrix_unpack(matrix_, codes.data(), codes.size(), nullptr), NFLOAT_OK);
  EXPECT_EQ(std::memcmp(codes.data(), view_.codes, codes.size()), 0);
  EXPECT_EQ(nfloat_packed_matrix_unpack(matrix_, codes.data(), codes.size() - 1, nullptr),
            NFLOAT_INVALID_ARGUMENT);
}

TEST_P(CMatrix, TransposedProductsAreSumsOverTheRows) {
  const Case& c = GetParam();
  constexpr int64_t kRows = 5;
  const std::vector<float> x = waves(kRows * c.out, 0.3f);
  std::vector<float> row(static_cast<size_t>(c.in));
  std::vector<double> expected(static_cast<size_t>(kRows * c.in)), absolute(expected.size());
  for (int64_t n = 0; n < c.out; ++n) {
    ASSERT_EQ(nfloat_packed_matrix_dequantize_row(matrix_, n, row.data(), row.size(), nullptr), NFLOAT_OK);
    for (int64_t m = 0; m < kRows; ++m)
      for (int64_t k = 0; k < c.in; ++k) {
        const double product = double{x[static_cast<size_t>(m * c.out + n)]} * row[static_cast<size_t>(k)];
        expected[static_cast<size_t>(m * c.in + k)] += product;
        absolute[static_cast<size_t>(m * c.in + k)] += std::abs(product);
      }
  }
  const ActivationsHandle activations(nfloat_activations_create());
  const nfloat_tensor from = matrix_of(x, kRows, c.out);
  ASSERT_EQ(nfloat_activations_assign(activations, &from, nullptr), NFLOAT_OK);
  std::vector<float> y(expected.size());
  nfloat_linear_options options = defaults<nfloat_linear_options>();
  for (const auto& [precision, bound] :
       std::vector<std::pair<nfloat_precision, double>>{{NFLOAT_PRECISION_F32, 1e-6},
                                                        {NFLOAT_PRECISION_DEFAULT, 0x1p-7},
                                                        {NFLOAT_PRECISION_INT8, 0x1p-7}}) {
    options.precision = precision;
    nfloat_error* error = nullptr;
    ASSERT_EQ(
        nfloat_linear_transposed(matrix_, activations, &options, y.data(), y.size() * sizeof(float), &error),
        NFLOAT_OK)
        << taken(error);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(y[i], expected[i], bound * absolute[i] + 1e-6) << i << " at precision " << precision;
  }
  // In 16 bits, and what is refused.
  std::vector<uint16_t> half(y.size());
  options.output = NFLOAT_BF16;
  EXPECT_EQ(nfloat_linear_transposed(matrix_, activations, &options, half.data(), half.size() * 2, nullptr),
            NFLOAT_OK);
  EXPECT_EQ(nfloat_linear_transposed(matrix_, activations, &options, half.data(), half.size(), nullptr),
            NFLOAT_INVALID_ARGUMENT);
  options.bias = x.data();
  EXPECT_EQ(nfloat_linear_transposed(matrix_, activations, &options, half.data(), half.size() * 2, nullptr),
            NFLOAT_INVALID_ARGUMENT);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CMatrix,
                         ::testing::Values(Case{17, 128, 64, 0}, Case{32, 256, 64, 1}, Case{5, 24, 16, 0},
                                           Case{33, 200, 64, 0}, Case{3, 7, 16, 0}, Case{19, 70, 64, 1}));

}  // namespace
}  // namespace nfloat::testing
