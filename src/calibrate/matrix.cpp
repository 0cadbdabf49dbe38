// SPDX-License-Identifier: Apache-2.0
#include "calibrate/matrix.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "calibrate/block_work.h"
#include "calibrate/gguf_coding.h"
#include "calibrate/products.h"
#include "calibrate/super_coding.h"

namespace nfloat {
namespace {

// Room for a scale above the largest of those that were wanted: the negative side of the map has one value
// less at its end.
constexpr float kHeadroom = 1.05f;
// Of scales in float16, shares of what a block wants.
constexpr float kLowestScale = .3f, kHighestScale = 1.4f;
constexpr float kLeastBlock = 1e-3f;   // share of the largest scale that a block of zeros may take
constexpr float kLeastScale = 1e-30f;  // a group of scales below it is zero: its inverses would overflow

// By feedback and descent; scales of double quantization where `scales` are none of float16.
QuantizedTensor coded_by_feedback(std::span<const float> weights, int64_t rows, const HessianFactor& factor,
                                  const CalibratedOptions& options, const StoredScales& scales) {
  const Levels levels(options.codebook);
  Coding coding{.rows = rows,
                .columns = factor.size,
                .block_size = options.block_size,
                .places = std::vector<uint8_t>(weights.size()),
                .scale_codes = {}};
  coding.scale_codes.resize(static_cast<size_t>(coding.blocks()));
  feed_back(weights, factor, levels, scales, options.finalists, options.threads, coding);
  for (int sweep = 0; sweep < options.sweeps; ++sweep)
    descend(weights, factor, levels, scales, options.whole, options.threads, coding);
  QuantizedTensor tensor;
  tensor.codebook = options.codebook;
  tensor.shape = {rows, factor.size};
  tensor.block_size = options.block_size;
  tensor.codes.assign((coding.places.size() + 1) / 2, 0);
  for (size_t i = 0; i < coding.places.size(); ++i)
    tensor.codes[i / 2] |= static_cast<uint8_t>(levels.code[coding.places[i]] << (i % 2 == 0 ? 4 : 0));
  if (scales.float16()) {
    for (size_t block = 0; block < coding.scale_codes.size(); ++block)
      tensor.scales.push_back(scales.at(static_cast<int64_t>(block), coding.scale_codes[block]));
    return tensor;
  }
  tensor.nested.codes = coding.scale_codes;
  tensor.nested.absmax = scales.absmax();
  tensor.nested.offset = 0;
  return tensor;
}

double inner_product(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

GgufMatrix rows_by_feedback(GgufType type, std::span<const float> weights, int64_t rows,
                            const HessianFactor& factor, const CalibratedOptions& options) {
  GgufMatrix result{.type = type, .rows = rows, .columns = factor.size, .bytes = {}};
  if (!SuperFormat::knows(type)) {
    CalibratedOptions own = options;
    own.codebook = gguf_codebook(type);
    own.block_size = kGgufBlock;
    QuantizeOptions plain;
    plain.block_size = kGgufBlock;
    plain.scale = ScaleMethod::kSigned;
    plain.threads = options.threads;
    const TensorView view{DType::kF32, {rows, factor.size}, std::as_bytes(weights)};
    const QuantizedTensor wanted = quantize_blockwise(view, own.codebook, plain);
    result.bytes = gguf_blocks(
        coded_by_feedback(weights, rows, factor, own, StoredScales(wanted.scales, gguf_unit(type))), type);
    return result;
  }
  const SuperFormat format(type);
  SuperCoding coding{.rows = rows, .columns = factor.size, .blocks = {}};
  coding.blocks.resize(static_cast<size_t>(rows * coding.row_blocks()));
  feed_back(weights, factor, format, options.finalists, options.threads, coding);
  descend(weights, factor, format, options.whole, options.sweeps, options.threads, coding);
  result.bytes = bytes_of(coding, format);
  return result;
}

CalibratedMatrix calibrated_blocks(GgufType type, std::span<const float> weights, int64_t rows,
                                   const HessianFactor& factor, const CalibratedOptions& options) {
  std::vector<float> values(weights.size());
  const auto loss_of = [&](const GgufMatrix& matrix) {
    decode_rows(matrix, values, options.threads);
    return proxy_loss(values, weights, rows, factor, options.threads);
  };
  CalibratedMatrix result;
  GgufMatrix plain = encoded_rows(type, weights, rows, factor.size, options.threads);
  result.plain_loss = loss_of(plain);
  result.blocks = rows_by_feedback(type, weights, rows, factor, options);
  result.loss = loss_of(result.blocks);
  if (!(result.loss <= result.plain_loss)) {
    result.kept_plain = true;
    result.loss = result.plain_loss;
    result.blocks = std::move(plain);
  }
  return result;
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

double proxy_loss(std::span<const float> values, std::span<const float> weights, int64_t rows,
                  const HessianFactor& factor, int threads) {
  std::vector<float> errors(values.begin(), values.end()), gradient(errors.size());
  for (size_t i = 0; i < errors.size(); ++i) errors[i] -= weights[i];
  product(errors, rows, factor.damped, factor.size, factor.size, gradient, threads);
  return inner_product(errors, gradient);
}

double proxy_loss(const QuantizedTensor& tensor, std::span<const float> weights, int64_t rows,
                  const HessianFactor& factor, int threads) {
  std::vector<float> values(weights.size());
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(values)), threads);
  return proxy_loss(values, weights, rows, factor, threads);
}

GgufMatrix encoded_rows(GgufType type, std::span<const float> weights, int64_t rows, int64_t columns,
                        int threads) {
  GgufMatrix result{.type = type, .rows = rows, .columns = columns, .bytes = {}};
  const GgufTypeInfo& info = gguf_type_info(type);
  const int64_t row_bytes = columns / info.block_elements * info.block_bytes;
  result.bytes.resize(static_cast<size_t>(rows * row_bytes));
  parallel_for(rows, 1, threads, [&](int64_t begin, int64_t end) {
    const auto part = [&](auto all, int64_t width) {
      return all.subspan(static_cast<size_t>(begin * width), static_cast<size_t>((end - begin) * width));
    };
    encode_gguf(type, part(weights, columns), part(std::span(result.bytes), row_bytes));
  });
  return result;
}

void decode_rows(const GgufMatrix& matrix, std::span<float> values, int threads) {
  const auto row_bytes = static_cast<int64_t>(matrix.bytes.size()) / std::max<int64_t>(1, matrix.rows);
  parallel_for(matrix.rows, 1, threads, [&](int64_t begin, int64_t end) {
    const auto part = [&](auto all, int64_t width) {
      return all.subspan(static_cast<size_t>(begin * width), static_cast<size_t>((end - begin) * width));
    };
    decode_gguf(matrix.type, part(std::span(matrix.bytes), row_bytes), part(values, matrix.columns));
  });
}

CalibratedMatrix calibrate_matrix(std::span<const float> weights, int64_t rows, const HessianFactor& factor,
                                  const CalibratedOptions& options) {
  const int64_t columns = factor.size;
  if (static_cast<int64_t>(weights.size()) != rows * columns)
    fail(ErrorCode::kInvalidArgument, "{} weights, [{}, {}] expected", weights.size(), rows, columns);
  if (options.gguf) return calibrated_blocks(*options.gguf, weights, rows, factor, options);
  const TensorView view{DType::kF32, {rows, columns}, std::as_bytes(weights)};
  QuantizeOptions plain_options;
  plain_options.block_size = options.block_size;
  plain_options.scale = ScaleMethod::kSigned;
  plain_options.threads = options.threads;
  const QuantizedTensor wanted = quantize_blockwise(view, options.codebook, plain_options);
  plain_options.double_quantization = true;
  CalibratedMatrix result;
  QuantizedTensor plain = quantize_blockwise(view, options.codebook, plain_options);
  result.plain_loss = proxy_loss(plain, weights, rows, factor, options.threads);
  result.tensor = coded_by_feedback(weights, rows, factor, options, StoredScales(wanted.scales));
  result.loss = proxy_loss(result.tensor, weights, rows, factor, options.threads);
  if (!(result.loss <= result.plain_loss)) {
    result.kept_plain = true;
    result.loss = result.plain_loss;
    result.tensor = std::move(plain);
  }
  return result;
}

}  // namespace nfloat
