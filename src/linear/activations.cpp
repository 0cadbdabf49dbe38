// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "linear/state.h"

namespace nfloat {
namespace {

using kernels::kActivationRows;
using kernels::kOctet;

// Calls body(row, rows of its block, elements before the block, place in the block).
template <typename Body>
void for_each_row(int64_t m, int threads, const Body& body) {
  parallel_for(m, kActivationRows, m < 2 * kActivationRows ? 1 : threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row / kActivationRows * kActivationRows;
      body(row, std::min<int64_t>(kActivationRows, m - first), first, row - first);
    }
  });
}

}  // namespace

Activations::Activations() : state_(std::make_unique<State>()) {}
Activations::Activations(Activations&&) noexcept = default;
Activations& Activations::operator=(Activations&&) noexcept = default;
Activations::~Activations() = default;

void Activations::assign(const float* x, int64_t x_stride, int64_t m, int64_t k) noexcept {
  state_->x = x;
  state_->x_stride = x_stride;
  state_->m = m;
  state_->k = k;
  state_->has_f32 = state_->has_bf16 = state_->has_tiles = state_->has_exact_tiles = state_->has_byte_tiles =
      false;
  state_->int8_block = 0;
}

const float* Activations::State::prepared_f32(int threads) {
  if (m == 1 && k % kOctet == 0) return x;
  float* output = reinterpret_cast<float*>(f32.at_least(static_cast<size_t>(m * octets()) * kOctet * 4));
  if (has_f32) return output;
  const auto& kernel = kernels::table().gemm;
  for_each_row(m, threads, [&](int64_t row, int64_t rows, int64_t first, int64_t place) {
    kernel.x_f32(x + row * x_stride, k, rows, output + first * octets() * kOctet + place * kOctet);
  });
  has_f32 = true;
  return output;
}

const uint16_t* Activations::State::prepared_bf16(int threads) {
  uint16_t* output =
      reinterpret_cast<uint16_t*>(bf16.at_least(static_cast<size_t>(m * octets()) * kOctet * 2));
  if (has_bf16) return output;
  const auto& kernel = kernels::table().gemm;
  for_each_row(m, threads, [&](int64_t row, int64_t rows, int64_t first, int64_t place) {
    kernel.x_bf16(x + row * x_stride, k, rows, output + first * octets() * kOctet + place * kOctet);
  });
  has_bf16 = true;
  return output;
}

Activations::State::Int8 Activations::State::prepared_int8(int64_t block, bool words, int threads) {
  const int64_t padded = octets() * kOctet;
  const int64_t blocks = padded / block;
  std::byte* output = int8.at_least(static_cast<size_t>(m * padded) * (words ? 2 : 1));
  float* scales = reinterpret_cast<float*>(int8_scales.at_least(static_cast<size_t>(m * blocks) * 4));
  int32_t* offsets = reinterpret_cast<int32_t*>(int8_offsets.at_least(static_cast<size_t>(m * blocks) * 4));
  if (int8_block == block && int8_words == words) return {output, scales, offsets};
  const auto& kernel = kernels::table().gemm;
  for_each_row(m, threads, [&](int64_t row, int64_t rows, int64_t first, int64_t place) {
    const auto prepare = [&](auto run, auto* to) {
      run(x + row * x_stride, k, rows, block, to + first * padded + place * kOctet,
          scales + first * blocks + place, offsets + first * blocks + place);
    };
    if (words) {
      prepare(kernel.x_words, reinterpret_cast<int16_t*>(output));
    } else {
      prepare(kernel.x_int8, reinterpret_cast<int8_t*>(output));
    }
  });
  int8_block = block;
  int8_words = words;
  return {output, scales, offsets};
}

}  // namespace nfloat
