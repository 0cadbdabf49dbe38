// SPDX-License-Identifier: Apache-2.0
#include "base/fail.h"
#include "nfloat/quantize.h"
#include "quantize/blocks.h"

namespace nfloat {

double QuantizedTensor::bits_per_weight() const noexcept {
  const size_t bytes = codes.size() + scales.size() * 4 + nested.codes.size() + nested.absmax.size() * 4;
  return elements() > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements()) : 0;
}

QuantizedTensor quantize_blockwise(const TensorView& weights, const Codebook& codebook,
                                   const QuantizeOptions& options) {
  if (!is_quantizable(weights.dtype)) {
    fail(ErrorCode::kInvalidArgument, "cannot quantize {}: F32, F16 or BF16", dtype_name(weights.dtype));
  }
  if (options.block_size < kMinBlockSize) {
    fail(ErrorCode::kInvalidArgument, "block size {}: at least {}", options.block_size, kMinBlockSize);
  }
  const kernels::CodeTable table = make_code_table(codebook);
  QuantizedTensor result{.codebook = codebook,
                         .dtype = weights.dtype,
                         .shape = weights.shape,
                         .block_size = options.block_size,
                         .codes = {},
                         .scales = {},
                         .nested = {}};
  result.codes.resize(static_cast<size_t>((result.elements() + 1) / 2));
  result.scales.resize(static_cast<size_t>(result.blocks()));
  const BlockRange range{weights.data(), weights.dtype, result.elements(), options.block_size};
  const int64_t bad = fit_scales(range, table, options.scale, result.scales.data());
  if (bad >= 0 && !options.allow_nonfinite)
    fail(ErrorCode::kNotFinite, "the weight at index {} is NaN or infinite", bad);
  // With searched scales the codes are chosen against the scale as stored; with absmax never, as bitsandbytes
  // does.
  std::vector<float> stored;
  if (options.double_quantization) {
    result.nested = quantize_scales(result.scales);
    if (options.scale != ScaleMethod::kAbsmax) stored = dequantize_scales(result.nested);
  }
  encode_blocks(range, table, stored.empty() ? result.scales.data() : stored.data(), result.codes.data());
  if (options.double_quantization) result.scales.clear();
  return result;
}

void dequantize_blockwise(const QuantizedTensor& tensor, DType dtype, std::span<std::byte> output, int) {
  if (!is_quantizable(dtype) ||
      output.size() != static_cast<size_t>(tensor.elements()) * dtype_bytes(dtype)) {
    fail(ErrorCode::kInvalidArgument, "{} bytes of {} for {} elements", output.size(), dtype_name(dtype),
         tensor.elements());
  }
  const std::vector<float> nested = dequantize_scales(tensor.nested);
  decode_blocks(tensor.codes.data(), nested.empty() ? tensor.scales.data() : nested.data(),
                make_code_table(tensor.codebook), tensor.elements(), tensor.block_size, dtype, output.data());
}

}  // namespace nfloat
