// SPDX-License-Identifier: Apache-2.0
// The kernels' codes, scales and floats against the library's own on a CPU: every byte equal.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cuda/convert.h"
#include "nfloat/codebook.h"
#include "nfloat/quantize.h"

namespace {

using namespace nfloat;  // NOLINT

template <typename Element>
void compare(const Codebook& codebook, DType dtype, int64_t elements, int shift) {
  std::mt19937 random(static_cast<unsigned>(elements));
  std::normal_distribution<float> normal;
  std::vector<gpu::Eight<Element>> storage(static_cast<size_t>(elements / 8 + 1));
  Element* weights = storage[0].values;
  for (int64_t i = 0; i < elements; ++i) gpu::narrow(0.03f * normal(random), weights + i);
  // Ties, zeros and the smallest values too.
  for (int64_t i = 0; i + 64 < elements; i += 640)
    for (int64_t j = 0; j < 64; ++j)
      gpu::narrow(j < 15 && j < std::ssize(codebook.thresholds) ? codebook.thresholds[static_cast<size_t>(j)]
                  : j == 20                                     ? 1.0f
                                                                : 0.0f,
                  weights + i + j);
  const size_t bytes = static_cast<size_t>(elements) * sizeof(Element);
  const TensorView view{dtype, Shape{elements}, std::span(reinterpret_cast<const std::byte*>(weights), bytes),
                        nullptr};
  const QuantizeOptions options{.block_size = int64_t{1} << shift};
  const QuantizedTensor expected = quantize_blockwise(view, codebook, options);

  std::vector<float> thresholds = codebook.thresholds;
  thresholds.resize(15, std::numeric_limits<float>::infinity());
  std::vector<uint8_t> ranks = codebook.code_of_rank;
  ranks.resize(16, 0);
  std::vector<uint4> codes(expected.codes.size() / 16 + 1);
  std::vector<float> scales(expected.scales.size());
  unsigned long long bad = ~0ull;
  gpu::quantize_blocks(weights, elements, shift, gpu::Code16{thresholds.data(), ranks.data()},
                       reinterpret_cast<uint8_t*>(codes.data()), scales.data(), &bad, 3);
  EXPECT_EQ(gpu::machine().fault, "");
  EXPECT_EQ(bad, ~0ull);
  EXPECT_EQ(scales, expected.scales);
  EXPECT_EQ(std::memcmp(codes.data(), expected.codes.data(), expected.codes.size()), 0);

  std::vector<std::byte> floats(bytes);
  dequantize_blockwise(expected, dtype, floats);
  std::vector<gpu::Eight<Element>> got(storage.size());
  std::vector<float> levels = codebook.levels;
  levels.resize(16, 0.0f);
  const gpu::Nf4 matrix{reinterpret_cast<const uint8_t*>(codes.data()),
                        scales.data(),
                        nullptr,
                        nullptr,
                        nullptr,
                        nullptr,
                        levels.data(),
                        1,
                        elements,
                        shift};
  gpu::dequantize_blocks(matrix, got[0].values, 3);
  EXPECT_EQ(gpu::machine().fault, "");
  EXPECT_EQ(std::memcmp(got.data(), floats.data(), bytes), 0);
}

TEST(CudaBytes, EqualTheCpus) {
  for (const char* name : {"nf4", "fp4", "nf3"})
    for (const int shift : {4, 6, 8, 12}) {
      SCOPED_TRACE(std::string(name) + ", blocks of 2^" + std::to_string(shift));
      const Codebook codebook = make_codebook(name, int64_t{1} << shift);
      compare<gpu::Bf16>(codebook, DType::kBF16, 20000, shift);
      compare<gpu::F16>(codebook, DType::kF16, 9003, shift);
      compare<float>(codebook, DType::kF32, 9010, shift);
    }
}

}  // namespace
