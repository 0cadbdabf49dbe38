// SPDX-License-Identifier: Apache-2.0
// The steps of a layer beside its products and its attention, on rows of float32: what card.h says of them.
#ifndef NFLOAT_CUDA_STEPS_H_
#define NFLOAT_CUDA_STEPS_H_

#include "cuda/card.h"
#include "cuda/warp.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

inline constexpr uint32_t kExponent = 0x7f800000u;  // of a float32 that is infinite or NaN

NFLOAT_DEVICE float added_to(float sum, float scale, float value) {
  return fused(scale, value, sum);
}

// A block takes kRowsOfBlock columns of a row: block (row, part).
inline constexpr int kColumnsOfBlock = 1024;

template <RowsOperation kOperation>
NFLOAT_KERNEL void over_rows(RowsArguments a) {
  const int64_t row = block_x(), begin = int64_t{block_y()} * kColumnsOfBlock;
  const int64_t end = begin + kColumnsOfBlock < a.width ? begin + kColumnsOfBlock : a.width;
  int64_t from_row = row, to_row = row;
  if constexpr (kOperation == RowsOperation::kGather) from_row = a.list[row];
  if constexpr (kOperation == RowsOperation::kScatterAdd) to_row = a.list[row];
  if constexpr (kOperation == RowsOperation::kAddToAll) from_row = 0;
  const float* const from = a.from != nullptr ? a.from + from_row * a.from_stride : nullptr;
  float* const to = static_cast<float*>(a.to) + to_row * a.to_stride;
  for (int64_t i = begin + thread(); i < end; i += threads()) {
    if constexpr (kOperation == RowsOperation::kCopy || kOperation == RowsOperation::kGather) {
      to[i] = from[i];
    } else if constexpr (kOperation == RowsOperation::kScatterAdd) {
      to[i] += a.shares[row] * from[i];
    } else if constexpr (kOperation == RowsOperation::kZero) {
      to[i] = 0;
    } else if constexpr (kOperation == RowsOperation::kAdd) {
      to[i] = added_to(to[i], a.scale, from[i]);
    } else if constexpr (kOperation == RowsOperation::kAddToAll) {
      to[i] += from[i];
    } else if constexpr (kOperation == RowsOperation::kEmbed) {
      to[i] = a.from != nullptr ? a.scale * to[i] + from[i] : a.scale * to[i];
    } else if constexpr (kOperation == RowsOperation::kSoftcap) {
      const float x = a.scale * to[i];
      to[i] = a.cap > 0 ? a.cap * hyperbolic_tangent(x / a.cap) : x;
    } else if constexpr (kOperation == RowsOperation::kFindBroken) {
      if ((float_to_bits(from[i]) & kExponent) == kExponent) *static_cast<int32_t*>(a.to) = 1;
    } else {
      static_cast<uint16_t*>(a.to)[row * a.width + i] = round_bf16(from[i]);
    }
  }
}

// Threads for rows of `width` numbers, about `each` of them a thread.
inline int threads_for(int64_t width, int64_t each, int64_t most) {
  const int64_t wanted = (width + each - 1) / each, whole = (wanted + 31) / 32 * 32;
  return static_cast<int>(whole < most ? whole : most);
}

template <RowsOperation kOperation>
void launch_rows(const RowsArguments& a) {
  launch(over_rows<kOperation>, static_cast<int>(a.rows),
         static_cast<int>((a.width + kColumnsOfBlock - 1) / kColumnsOfBlock), threads_for(a.width, 4, 256), 0,
         a);
}

inline constexpr int kNormThreads = 512;
struct NormShared {
  float sums[kNormThreads / 32];
};

// The sum over a block, for all its threads.
NFLOAT_DEVICE float sum_of_block(float value, NormShared& s) {
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  if (threads() == 32) return value;
  barrier();  // earlier sums are read
  if (thread() % 32 == 0) s.sums[thread() / 32] = value;
  barrier();
  float total = 0;
  for (int i = 0; i < threads() / 32; ++i) total += s.sums[i];
  return total;
}

// Block (row, part). kCentred: layer norm, two passes over the centred values, so that a large mean costs no
// precision; else RMS norm.
template <bool kCentred>
NFLOAT_KERNEL void norm_rows(NormArguments a) {
  NormShared& s = shared<NormShared>();
  float* const from = a.from + block_x() * a.from_stride + block_y() * a.part_stride;
  float* const to = a.to + block_x() * a.to_stride + block_y() * a.part_stride;
  if (a.added != nullptr) {  // a thread goes on with what it adds itself
    const float* const added = a.added + block_x() * a.added_stride;
    for (int64_t i = thread(); i < a.width; i += threads()) from[i] = added_to(from[i], a.scale, added[i]);
  }
  float mean = 0;
  if constexpr (kCentred) {
    float sum = 0;
    for (int64_t i = thread(); i < a.width; i += threads()) sum += from[i];
    mean = sum_of_block(sum, s) / static_cast<float>(a.width);
  }
  float squares = 0;
  for (int64_t i = thread(); i < a.width; i += threads()) {
    const float x = from[i] - mean;
    squares += x * x;
  }
  const float factor =
      divide_rounded(1.0f, square_root(sum_of_block(squares, s) / static_cast<float>(a.width) + a.epsilon));
  for (int64_t i = thread(); i < a.width; i += threads()) {
    float y = (from[i] - mean) * factor * a.weight[i];
    if (kCentred && a.bias != nullptr) y += a.bias[i];
    to[i] = y;
    if (a.rounded != nullptr) a.rounded[block_x() * a.width + i] = round_bf16(y);
  }
}

inline void launch_norm(const NormArguments& a) {
  launch(a.centred ? norm_rows<true> : norm_rows<false>, static_cast<int>(a.rows), static_cast<int>(a.parts),
         threads_for(a.width, 8, kNormThreads), sizeof(NormShared), a);
}

NFLOAT_DEVICE float logistic(float x) {
  return 1.0f / (1.0f + exponential(-x));
}

NFLOAT_DEVICE float activated(Gate kind, float x) {
  switch (kind) {
    case Gate::kSilu:
      return x * logistic(x);
    case Gate::kGelu:
      return 0.5f * x * complementary_error(x * -0.70710678118655f);
    case Gate::kGeluTanh:  // (1 + tanh(u)) / 2 = logistic(2 u)
      return x * logistic(x * (0.0713548162726f * x * x + 1.59576912160573f));
    case Gate::kQuickGelu:
      return x * logistic(1.702f * x);
    default:
      return x < 0 ? 0.0f : x;
  }
}

NFLOAT_KERNEL void activate_rows(ActivateArguments a) {
  float* const row = a.at + block_x() * a.stride;
  const int64_t begin = int64_t{block_y()} * kColumnsOfBlock;
  const int64_t end = begin + kColumnsOfBlock < a.width ? begin + kColumnsOfBlock : a.width;
  for (int64_t i = begin + thread(); i < end; i += threads()) {
    float y = activated(a.kind, row[i]);
    if (a.gated) y *= row[a.width + i];
    row[i] = y;
    if (a.rounded != nullptr) a.rounded[block_x() * a.width + i] = round_bf16(y);
  }
}

// A block a row.
NFLOAT_KERNEL void activate_clamped_rows(ActivateArguments a) {
  float* const row = a.at + block_x() * a.stride;
  for (int64_t first = 0; first < a.width; first += threads()) {
    const int64_t i = first + thread();
    float y = 0;
    if (i < a.width) {
      const float both = row[2 * i], other = row[2 * i + 1];
      const float gate = both > a.limit ? a.limit : both;
      const float up = other > a.limit ? a.limit : other < -a.limit ? -a.limit : other;
      y = (up + 1.0f) * gate * logistic(1.702f * gate);
    }
    barrier();  // what the others read here is overwritten now; what comes later lies behind it
    if (i >= a.width) continue;
    row[i] = y;
    if (a.rounded != nullptr) a.rounded[block_x() * a.width + i] = round_bf16(y);
  }
}

inline void launch_activate(const ActivateArguments& a) {
  if (a.limit > 0) {
    launch(activate_clamped_rows, static_cast<int>(a.rows), 1, threads_for(a.width, 1, 512), 0, a);
  } else {
    launch(activate_rows, static_cast<int>(a.rows),
           static_cast<int>((a.width + kColumnsOfBlock - 1) / kColumnsOfBlock), threads_for(a.width, 4, 256),
           0, a);
  }
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_STEPS_H_
