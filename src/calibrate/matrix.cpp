// SPDX-License-Identifier: Apache-2.0
#include "calibrate/matrix.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/float16.h"
#include "calibrate/block_work.h"
#include "calibrate/gguf_coding.h"
#include "calibrate/products.h"

namespace nfloat {
namespace {

// Room for a scale above the largest of those that were wanted: the negative side of the map has one value
// less at its end.
constexpr float kHeadroom = 1.05f;
// Of scales in float16, shares of what a block wants.
constexpr float kLowestScale = .3f, kHighestScale = 1.4f;
constexpr float kLeastBlock = 1e-3f;   // share of the largest scale that a block of zeros may take
constexpr float kLeastScale = 1e-30f;  // a group of scales below it is zero: its inverses would overflow

QuantizedTensor packed(const Coding& coding, const Levels& levels, const StoredScales& scales,
                       const CalibratedOptions& options) {
  QuantizedTensor tensor;
  tensor.codebook = options.codebook;
  tensor.shape = {coding.rows, coding.columns};
  tensor.block_size = coding.block_size;
  tensor.codes.assign((coding.places.size() + 1) / 2, 0);
  for (size_t i = 0; i < coding.places.size(); ++i)
    tensor.codes[i / 2] |= static_cast<uint8_t>(levels.code[coding.places[i]] << (i % 2 == 0 ? 4 : 0));
  if (options.gguf) {
    for (size_t block = 0; block < coding.scale_codes.size(); ++block)
      tensor.scales.push_back(scales.at(static_cast<int64_t>(block), coding.scale_codes[block]));
    return tensor;
  }
  tensor.nested.codes = coding.scale_codes;
  tensor.nested.absmax = scales.absmax();
  tensor.nested.offset = 0;
  return tensor;
}

std::vector<float> errors_of(const QuantizedTensor& tensor, std::span<const float> weights, int threads) {
  std::vector<float> errors(weights.size());
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(errors)), threads);
  for (size_t i = 0; i < errors.size(); ++i) errors[i] -= weights[i];
  return errors;
}

double inner_product(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

}  // namespace

StoredScales::StoredScales(std::span<const float> wanted) : map_(&dynamic_codebook().levels) {
  for (size_t first = 0; first < wanted.size(); first += kNestedBlockSize) {
    float most = 0;
    for (size_t i = first; i < std::min(wanted.size(), first + kNestedBlockSize); ++i)
      most = std::max(most, std::fabs(wanted[i]));
    absmax_.push_back(most > kLeastScale ? kHeadroom * most : 1.0f);
  }
}

StoredScales::StoredScales(std::span<const float> wanted, float unit) : group_(1), unit_(unit) {
  static const std::vector<float> steps = [] {
    std::vector<float> map(256);
    for (int i = 1; i <= 128; ++i) {
      const float step = kLowestScale + (kHighestScale - kLowestScale) * static_cast<float>(i) / 128;
      map[static_cast<size_t>(kZero + i)] = step;
      if (i <= kZero) map[static_cast<size_t>(kZero - i)] = -step;
    }
    return map;
  }();
  map_ = &steps;
  float most = 0;
  for (const float scale : wanted) most = std::max(most, std::fabs(scale));
  if (!(most > kLeastScale)) most = 1;
  for (const float scale : wanted) absmax_.push_back(std::max(std::fabs(scale), kLeastBlock * most));
}

float StoredScales::stored(float scale) const noexcept {
  constexpr float kLeastHalf = 0x1p-24f, kMostHalf = 65504.0f;
  const float factor = std::clamp(std::fabs(scale) / unit_, kLeastHalf, kMostHalf);
  return std::copysign(unit_ * f16_to_float(float_to_f16(factor)), scale);
}

int StoredScales::first_above(int64_t block, float scale) const noexcept {
  const float x = scale / absmax(block);
  const auto first = std::lower_bound(map_->begin() + kZero + 1, map_->end(), x) - map_->begin();
  return static_cast<int>(first);
}

int StoredScales::nearest(int64_t block, float scale) const noexcept {
  const float x = scale / absmax(block);
  auto above = static_cast<int>(std::lower_bound(map_->begin(), map_->end(), x) - map_->begin());
  above = std::min(above, 255);
  const int below = std::max(0, above - 1);
  int best =
      std::fabs((*map_)[static_cast<size_t>(above)] - x) < std::fabs((*map_)[static_cast<size_t>(below)] - x)
          ? above
          : below;
  if (best == kZero) best += std::signbit(x) ? -1 : 1;
  return best;
}

double proxy_loss(const QuantizedTensor& tensor, std::span<const float> weights, int64_t rows,
                  const HessianFactor& factor, int threads) {
  const std::vector<float> errors = errors_of(tensor, weights, threads);
  std::vector<float> gradient(errors.size());
  product_with_transpose(errors, rows, factor.damped, factor.size, factor.size, gradient, threads);
  return inner_product(errors, gradient);
}

CalibratedMatrix calibrate_matrix(std::span<const float> weights, int64_t rows, const HessianFactor& factor,
                                  const CalibratedOptions& options) {
  const int64_t columns = factor.size;
  if (static_cast<int64_t>(weights.size()) != rows * columns)
    fail(ErrorCode::kInvalidArgument, "{} weights, [{}, {}] expected", weights.size(), rows, columns);
  const TensorView view{DType::kF32, {rows, columns}, std::as_bytes(weights)};
  QuantizeOptions plain_options;
  plain_options.block_size = options.block_size;
  plain_options.scale = ScaleMethod::kSigned;
  plain_options.threads = options.threads;
  const QuantizedTensor wanted = quantize_blockwise(view, options.codebook, plain_options);
  plain_options.double_quantization = true;
  CalibratedMatrix result;
  QuantizedTensor plain = options.gguf ? gguf_rounded(*options.gguf, weights, rows, columns, options.threads)
                                       : quantize_blockwise(view, options.codebook, plain_options);
  result.plain_loss = proxy_loss(plain, weights, rows, factor, options.threads);

  const Levels levels(options.codebook);
  const StoredScales scales =
      options.gguf ? StoredScales(wanted.scales, gguf_unit(*options.gguf)) : StoredScales(wanted.scales);
  Coding coding{.rows = rows,
                .columns = columns,
                .block_size = options.block_size,
                .places = std::vector<uint8_t>(weights.size()),
                .scale_codes = {}};
  coding.scale_codes.resize(static_cast<size_t>(coding.blocks()));
  feed_back(weights, factor, levels, scales, options.finalists, options.threads, coding);
  for (int sweep = 0; sweep < options.sweeps; ++sweep)
    descend(weights, factor, levels, scales, options.whole, options.threads, coding);
  result.tensor = packed(coding, levels, scales, options);
  result.loss = proxy_loss(result.tensor, weights, rows, factor, options.threads);
  if (!(result.loss <= result.plain_loss)) {
    result.kept_plain = true;
    result.loss = result.plain_loss;
    result.tensor = std::move(plain);
  }
  return result;
}

}  // namespace nfloat
