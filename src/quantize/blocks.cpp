// SPDX-License-Identifier: Apache-2.0
#include "quantize/blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/fail.h"
#include "base/float16.h"

namespace nfloat {
namespace {

float load(const BlockRange& range, int64_t i) noexcept {
  if (range.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(range.weights) + i * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(range.weights) + i * 2, 2);
  return range.dtype == DType::kF16 ? f16_to_float(bits) : bf16_to_float(bits);
}

uint8_t encode(float y, const kernels::CodeTable& table) noexcept {
  int rank = 0;
  for (int i = 0; i < 15; ++i) rank += y > table.thresholds[i] ? 1 : 0;
  return table.code_of_rank[rank];
}

void put(uint8_t* codes, int64_t i, uint8_t code) noexcept {
  if (i % 2 == 0) {
    codes[i / 2] = static_cast<uint8_t>(code << 4);
  } else {
    codes[i / 2] = static_cast<uint8_t>(codes[i / 2] | code);
  }
}

}  // namespace

kernels::CodeTable make_code_table(const Codebook& codebook) {
  if (codebook.levels.size() > 16) {
    fail(ErrorCode::kInvalidArgument, "code '{}' has {} levels, at most 16 fit into 4 bits", codebook.name,
         codebook.levels.size());
  }
  kernels::CodeTable table{};
  const size_t count = codebook.levels.size();
  for (size_t i = 0; i < 16; ++i) {
    table.levels[i] = codebook.levels[std::min(i, count - 1)];
    table.thresholds[i] = i + 1 < count ? codebook.thresholds[i] : std::numeric_limits<float>::infinity();
    table.code_of_rank[i] = codebook.code_of_rank[std::min(i, count - 1)];
  }
  return table;
}

int64_t fit_scales(const BlockRange& range, const kernels::CodeTable&, ScaleMethod, float* scales) noexcept {
  int64_t bad = -1;
  for (int64_t begin = 0, block = 0; begin < range.elements; begin += range.block_size, ++block) {
    const int64_t end = std::min(range.elements, begin + range.block_size);
    float absmax = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float value = load(range, i);
      if (!std::isfinite(value) && bad < 0) bad = i;
      absmax = std::max(absmax, std::fabs(value));
    }
    scales[block] = absmax;
  }
  return bad;
}

int64_t quantize_blocks(const BlockRange& range, const kernels::CodeTable& table, float* scales,
                        uint8_t* codes) noexcept {
  const int64_t bad = fit_scales(range, table, ScaleMethod::kAbsmax, scales);
  encode_blocks(range, table, scales, codes);
  return bad;
}

void encode_blocks(const BlockRange& range, const kernels::CodeTable& table, const float* scales,
                   uint8_t* codes) noexcept {
  for (int64_t begin = 0, block = 0; begin < range.elements; begin += range.block_size, ++block) {
    const int64_t end = std::min(range.elements, begin + range.block_size);
    const float scale = std::fabs(scales[block]) < 1e-38f ? 1e-38f : scales[block];
    const bool whole = end - begin == range.block_size;
    const float reciprocal = 1.0f / scale;
    for (int64_t i = begin; i < end; ++i) {
      const float value = load(range, i);
      put(codes, i, encode(std::clamp(whole ? value * reciprocal : value / scale, -1.0f, 1.0f), table));
    }
  }
  if (range.elements % 2 != 0) put(codes, range.elements, encode(0.0f, table));
}

void decode_blocks(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                   int64_t elements, int64_t block_size, DType dtype, void* output) noexcept {
  for (int64_t i = 0; i < elements; ++i) {
    const int code = i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15;
    const float value = table.levels[code] * scales[i / block_size];
    if (dtype == DType::kF32) {
      static_cast<float*>(output)[i] = value;
    } else {
      static_cast<uint16_t*>(output)[i] = dtype == DType::kF16 ? float_to_f16(value) : float_to_bf16(value);
    }
  }
}

}  // namespace nfloat
