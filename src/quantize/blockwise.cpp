// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>

#include "base/fail.h"
#include "base/parallel.h"
#include "nfloat/quantize.h"
#include "quantize/blocks.h"

namespace nfloat {
namespace {

// A thread's share is whole blocks, an even number of elements, and work enough to pay for waking a thread.
int64_t blocks_per_grain(int64_t block_size) noexcept {
  constexpr int64_t kGrainElements = 1 << 15;
  return 2 * std::max<int64_t>(1, kGrainElements / 2 / block_size);
}

// Outputs from here on cannot stay in a core's own caches.
constexpr size_t kStreamBytes = size_t{8} << 20;

// Runs body(range, first block) over the tensor's blocks; it returns an index within its range or -1. The
// result is the least index in the tensor, or -1.
template <typename Body>
int64_t over_blocks(const TensorView& weights, int64_t block_size, int threads, Body body) {
  const int64_t elements = weights.elements();
  const int64_t blocks = (elements + block_size - 1) / block_size;
  std::atomic<int64_t> least{elements};
  parallel_for(blocks, blocks_per_grain(block_size), threads, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * block_size;
    const BlockRange range{weights.bytes.data() + static_cast<size_t>(first) * dtype_bytes(weights.dtype),
                           weights.dtype, std::min(elements, end * block_size) - first, block_size};
    const int64_t found = body(range, begin);
    if (found < 0) return;
    int64_t seen = least.load();
    while (first + found < seen && !least.compare_exchange_weak(seen, first + found)) {
    }
  });
  return least.load() < elements ? least.load() : -1;
}

void check(const TensorView& weights, const QuantizeOptions& options) {
  if (!is_quantizable(weights.dtype)) {
    fail(ErrorCode::kInvalidArgument, "cannot quantize {}: F32, F16 or BF16", dtype_name(weights.dtype));
  }
  if (options.block_size < kMinBlockSize) {
    fail(ErrorCode::kInvalidArgument, "block size {}: at least {}", options.block_size, kMinBlockSize);
  }
  if (weights.bytes.size() != static_cast<size_t>(weights.elements()) * dtype_bytes(weights.dtype)) {
    fail(ErrorCode::kInvalidArgument, "{} of {} needs {} bytes, not {}", weights.shape.to_string(),
         dtype_name(weights.dtype), static_cast<size_t>(weights.elements()) * dtype_bytes(weights.dtype),
         weights.bytes.size());
  }
}

// A block longer than the tensor is its one partial block, whatever its size: nothing overflows.
int64_t fitting_block(int64_t block_size, int64_t elements) noexcept {
  return std::min(block_size, std::max<int64_t>(1, elements) + 1);
}

// Scales, and codes unless the scales are yet to be quantized by search.
void quantize_into(const TensorView& weights, const kernels::CodeTable& table, int64_t block_size,
                   const QuantizeOptions& options, uint8_t* codes, float* scales) {
  const bool absmax = options.scale == ScaleMethod::kAbsmax;
  const int64_t bad =
      over_blocks(weights, block_size, options.threads, [&](const BlockRange& range, int64_t block) {
        uint8_t* own_codes = codes + block * block_size / 2;
        if (absmax) return quantize_blocks(range, table, scales + block, own_codes);
        const int64_t found = fit_scales(range, table, options.scale, scales + block);
        if (!options.double_quantization) encode_blocks(range, table, scales + block, own_codes);
        return found;
      });
  if (bad >= 0 && !options.allow_nonfinite)
    fail(ErrorCode::kNotFinite, "the weight at index {} is NaN or infinite", bad);
}

}  // namespace

double QuantizedTensor::bits_per_weight() const noexcept {
  const size_t bytes = codes.size() + scales.size() * 4 + nested.codes.size() + nested.absmax.size() * 4;
  return elements() > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements()) : 0;
}

void quantize_blockwise(const TensorView& weights, const Codebook& codebook, const QuantizeOptions& options,
                        std::span<uint8_t> codes, std::span<float> scales) {
  check(weights, options);
  const int64_t elements = weights.elements();
  const int64_t block_size = fitting_block(options.block_size, elements);
  if (options.double_quantization)
    fail(ErrorCode::kInvalidArgument, "double-quantized scales do not fit into floats of the caller's");
  if (codes.size() != static_cast<size_t>((elements + 1) / 2) ||
      scales.size() != static_cast<size_t>((elements + block_size - 1) / block_size)) {
    fail(ErrorCode::kInvalidArgument, "{} bytes of codes and {} scales for {} elements in blocks of {}",
         codes.size(), scales.size(), elements, options.block_size);
  }
  quantize_into(weights, make_code_table(codebook), block_size, options, codes.data(), scales.data());
}

NestedScales quantize_blockwise(const TensorView& weights, const Codebook& codebook,
                                const QuantizeOptions& options, std::span<uint8_t> codes) {
  check(weights, options);
  const int64_t elements = weights.elements();
  const int64_t block_size = fitting_block(options.block_size, elements);
  if (!options.double_quantization)
    fail(ErrorCode::kInvalidArgument, "scales in 8 bits are those of double quantization");
  if (codes.size() != static_cast<size_t>((elements + 1) / 2))
    fail(ErrorCode::kInvalidArgument, "{} bytes of codes for {} elements", codes.size(), elements);
  const kernels::CodeTable table = make_code_table(codebook);
  std::vector<float> scales(static_cast<size_t>((elements + block_size - 1) / block_size));
  quantize_into(weights, table, block_size, options, codes.data(), scales.data());
  NestedScales nested = quantize_scales(scales, options.threads);
  if (options.scale != ScaleMethod::kAbsmax) {
    const std::vector<float> stored = dequantize_scales(nested);
    over_blocks(weights, block_size, options.threads, [&](const BlockRange& range, int64_t block) {
      encode_blocks(range, table, stored.data() + block, codes.data() + block * block_size / 2);
      return int64_t{-1};
    });
  }
  return nested;
}

QuantizedTensor quantize_blockwise(const TensorView& weights, const Codebook& codebook,
                                   const QuantizeOptions& options) {
  check(weights, options);
  QuantizedTensor result{.codebook = codebook,
                         .dtype = weights.dtype,
                         .shape = weights.shape,
                         .block_size = options.block_size,
                         .codes = {},
                         .scales = {},
                         .nested = {}};
  const int64_t block_size = fitting_block(options.block_size, result.elements());
  result.codes.resize(static_cast<size_t>((result.elements() + 1) / 2));
  if (options.double_quantization) {
    result.nested = quantize_blockwise(weights, codebook, options, result.codes);
    return result;
  }
  result.scales.resize(static_cast<size_t>((result.elements() + block_size - 1) / block_size));
  quantize_blockwise(weights, codebook, options, result.codes, result.scales);
  return result;
}

void dequantize_blockwise(const QuantizedTensor& tensor, DType dtype, std::span<std::byte> output,
                          int threads) {
  const int64_t elements = tensor.elements();
  if (!is_quantizable(dtype) || output.size() != static_cast<size_t>(elements) * dtype_bytes(dtype)) {
    fail(ErrorCode::kInvalidArgument, "{} bytes of {} for {} elements", output.size(), dtype_name(dtype),
         elements);
  }
  const std::vector<float> nested = dequantize_scales(tensor.nested);
  const std::vector<float>& scales = tensor.double_quantized() ? nested : tensor.scales;
  const int64_t block_size = fitting_block(tensor.block_size, elements);
  if (block_size < 1 || tensor.codes.size() != static_cast<size_t>((elements + 1) / 2) ||
      scales.size() != static_cast<size_t>((elements + block_size - 1) / block_size)) {
    fail(ErrorCode::kInvalidArgument, "{} bytes of codes and {} scales for {} elements in blocks of {}",
         tensor.codes.size(), scales.size(), elements, tensor.block_size);
  }
  decode_tensor(tensor.codes.data(), scales.data(), make_code_table(tensor.codebook), elements, block_size,
                dtype, output.data(), threads);
}

void decode_tensor(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                   int64_t elements, int64_t block_size, DType dtype, std::byte* output, int threads) {
  block_size = fitting_block(block_size, elements);
  const int64_t blocks = (elements + block_size - 1) / block_size;
  const bool stream = static_cast<size_t>(elements) * dtype_bytes(dtype) >= kStreamBytes;
  parallel_for(blocks, blocks_per_grain(block_size), threads, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * block_size;
    decode_blocks(codes + first / 2, scales + begin, table, std::min(elements, end * block_size) - first,
                  block_size, dtype, output + static_cast<size_t>(first) * dtype_bytes(dtype), stream);
  });
}

}  // namespace nfloat
