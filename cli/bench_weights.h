// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_BENCH_WEIGHTS_H_
#define NFLOAT_CLI_BENCH_WEIGHTS_H_

#include <cstdint>
#include <random>

#include "nfloat/quantize.h"

namespace nfloat::cli {

inline constexpr int64_t kCols = 4096;
inline constexpr int64_t kBlock = 64;
inline constexpr int64_t kCached = int64_t{1} << 14;  // weights whose float32 stay in a core's own cache
inline constexpr int64_t kPeriod = 65521;             // a prime

// Memory whose pages exist, filled with weights of which no two neighbouring rows are alike.
inline Buffer some_weights(int64_t count) {
  Buffer buffer(static_cast<size_t>(count) * 4);
  float* values = reinterpret_cast<float*>(buffer.data());
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) values[i] = i < kPeriod ? 0.02f * normal(random) : values[i - kPeriod];
  return buffer;
}

// Random weights, and their quantized form for packing; made once for every shape.
struct Source {
  int64_t rows;
  QuantizedTensor plain, nested;

  explicit Source(int64_t row_count) : rows(row_count) {
    const Buffer values = some_weights(rows * kCols);
    const TensorView view{DType::kF32, Shape({rows, kCols}), {values.data(), values.size()}};
    QuantizeOptions options;
    plain = quantize_blockwise(view, make_codebook("nf4"), options);
    options.double_quantization = true;
    nested = quantize_blockwise(view, make_codebook("nf4"), options);
  }

  const QuantizedTensor& tensor(bool double_quantized) const { return double_quantized ? nested : plain; }
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_BENCH_WEIGHTS_H_
