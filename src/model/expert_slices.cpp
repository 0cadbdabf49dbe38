// SPDX-License-Identifier: Apache-2.0
#include "model/expert_slices.h"

#include <cmath>
#include <cstring>

#include "checkpoint/quantized_view.h"
#include "model/add_weights.h"

namespace nfloat {
namespace {

TensorView part_of(const TensorView& view, int64_t first, int64_t count) {
  const auto size = static_cast<int64_t>(dtype_bytes(view.dtype));
  return {view.dtype,
          {count},
          view.bytes.subspan(static_cast<size_t>(first * size), static_cast<size_t>(count * size)),
          view.owner};
}

}  // namespace

TensorView slice_of(const TensorView& fused, int64_t expert) {
  const int64_t elements = fused.shape[1] * fused.shape[2];
  TensorView slice = part_of(fused, expert * elements, elements);
  slice.shape = {fused.shape[1], fused.shape[2]};
  return slice;
}

Tensor decoded_slice(const QuantizedView& fused, int64_t expert) {
  Tensor result(DType::kF32, {fused.shape[1], fused.shape[2]});
  const int64_t first = expert * result.elements();
  const auto* codes = static_cast<const uint8_t*>(fused.codes.data());
  const BlockScales scales = block_scales(fused);
  for (int64_t i = 0; i < result.elements(); ++i) {
    result.data<float>()[i] =
        float_at(fused.quant_map.data(), code_at(codes, first + i)) * scales[(first + i) / fused.block_size];
  }
  return result;
}

void add_quantized_slice(LinearGroup& group, Device& device, const QuantizedView& fused, int64_t expert,
                         const std::vector<float>& bias, int threads) {
  const int64_t elements = fused.shape[1] * fused.shape[2];
  if (elements % fused.block_size != 0 || elements % 2 != 0)
    return add_weights(group, device, decoded_slice(fused, expert).view(), bias, threads);
  const int64_t blocks = elements / fused.block_size, first = expert * blocks;
  QuantizedView slice = fused;
  slice.shape = {fused.shape[1], fused.shape[2]};
  slice.codes =
      part_of({DType::kU8, {}, fused.codes.bytes, fused.codes.owner}, expert * elements / 2, elements / 2);
  std::vector<float> scales;
  if (fused.nested && first % fused.nested_block_size != 0) {
    const BlockScales stored = block_scales(fused);
    for (int64_t block = first; block < first + blocks; ++block) scales.push_back(stored[block]);
    slice.nested = false;
    slice.absmax = {DType::kF32, {blocks}, std::as_bytes(std::span(scales))};
  } else {
    slice.absmax = part_of(fused.absmax, first, blocks);
    if (fused.nested)
      slice.nested_absmax = part_of(fused.nested_absmax, first / fused.nested_block_size,
                                    (blocks + fused.nested_block_size - 1) / fused.nested_block_size);
  }
  add_weights(group, device, slice, bias, threads);
}

void add_mxfp4_slice(LinearGroup& group, Device& device, const TensorView& blocks, const TensorView& scales,
                     int64_t expert, const std::vector<float>& bias, int threads) {
  constexpr int64_t kBlock = 32;
  constexpr float kLevels[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  const int64_t rows = scales.shape[1], count = rows * scales.shape[2];
  const TensorView own_scales = part_of(scales, expert * count, count);
  const TensorView own_blocks = part_of(blocks, expert * count * kBlock / 2, count * kBlock / 2);
  std::vector<uint8_t> codes;
  codes.reserve(own_blocks.bytes.size());
  for (const std::byte pair : own_blocks.bytes) {
    const auto value = std::to_integer<uint32_t>(pair);
    codes.push_back(static_cast<uint8_t>(value << 4 | value >> 4));
  }
  std::vector<float> factors;
  for (const std::byte exponent : own_scales.bytes)
    factors.push_back(std::ldexp(1.0f, std::to_integer<int>(exponent) - 127));
  PackSource source;
  source.codes = codes;
  source.levels = kLevels;
  source.rows = rows;
  source.cols = scales.shape[2] * kBlock;
  source.block_size = kBlock;
  source.scales = factors;
  group.add(device, source, bias, threads);
}

}  // namespace nfloat
