// SPDX-License-Identifier: Apache-2.0
// The steps of a transformer layer beside its products. Residuals are float32; what a product reads next is
// bf16; keys and values are stored in bf16.
#ifndef NFLOAT_CUDA_TRANSFORMER_H_
#define NFLOAT_CUDA_TRANSFORMER_H_

#include "cuda/nf4.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

struct SumsShared {
  float sums[32];
};

// The sum over a block of at most 32 warps, for all its threads.
NFLOAT_DEVICE float block_sum(float value, SumsShared& s) {
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  barrier();  // earlier sums are read
  if (thread() % 32 == 0) s.sums[thread() / 32] = value;
  barrier();
  float total = 0;
  for (int i = 0; i < threads() / 32; ++i) total += s.sums[i];
  return total;
}

// A block a row. residual[row] += added[row] where `added` is not null; then out = (residual - mean) /
// sqrt(variance + epsilon) * weight + bias, rounded to bf16. kCentred: LayerNorm; else RMSNorm, without mean.
// bias may be null. Two passes over the centred values: a large mean costs no precision.
template <bool kCentred>
NFLOAT_KERNEL void norm(float* residual, const float* added, const float* weight, const float* bias,
                        float epsilon, int width, uint16_t* out) {
  SumsShared& s = shared<SumsShared>();
  float* row = residual + int64_t{block_x()} * width;
  float sum = 0;
  for (int i = thread(); i < width; i += threads()) {
    float value = row[i];
    if (added != nullptr) {
      value += added[int64_t{block_x()} * width + i];
      row[i] = value;
    }
    sum += value;
  }
  const float mean = kCentred ? block_sum(sum, s) / static_cast<float>(width) : 0.0f;
  float squares = 0;
  for (int i = thread(); i < width; i += threads()) squares += (row[i] - mean) * (row[i] - mean);
  const float deviation = square_root(block_sum(squares, s) / static_cast<float>(width) + epsilon);
  const float inverse = 1.0f / deviation;
  for (int i = thread(); i < width; i += threads()) {
    const float value = (row[i] - mean) * inverse * weight[i] + (bias != nullptr ? bias[i] : 0.0f);
    out[int64_t{block_x()} * width + i] = round_bf16(value);
  }
}

struct AttentionShape {
  int query_heads, key_heads, head;  // head: elements, divisible by 64 in attend, even elsewhere
  int capacity;                      // positions a cache holds
};

// A block a row of `projected` = [queries, keys, values] in float32. Queries and keys are rotated in halves
// (element i with i + head / 2) by the row's position, cosines and sines in [position][head / 2]; queries go
// back to `projected`, keys and values in bf16 to the caches [key_head][position][head].
NFLOAT_KERNEL void rotate_and_store(float* projected, const int* positions, const float* cosines,
                                    const float* sines, AttentionShape shape, uint16_t* keys,
                                    uint16_t* values) {
  const int head = shape.head, half = head / 2;
  float* row = projected + int64_t{block_x()} * (shape.query_heads + 2 * shape.key_heads) * head;
  const int position = positions[block_x()];
  const int pairs = (shape.query_heads + shape.key_heads) * half;
  for (int i = thread(); i < pairs; i += threads()) {
    const int which = i / half, at = i % half;
    float* from = row + which * head + at;
    const float c = cosines[int64_t{position} * half + at], d = sines[int64_t{position} * half + at];
    const float first = from[0] * c - from[half] * d, second = from[half] * c + from[0] * d;
    if (which < shape.query_heads) {
      from[0] = first;
      from[half] = second;
    } else {
      uint16_t* to = keys + (int64_t{which - shape.query_heads} * shape.capacity + position) * head + at;
      to[0] = round_bf16(first);
      to[half] = round_bf16(second);
    }
  }
  const float* from = row + (shape.query_heads + shape.key_heads) * head;
  for (int i = thread(); i < shape.key_heads * head; i += threads())
    values[(int64_t{i / head} * shape.capacity + position) * head + i % head] = round_bf16(from[i]);
}

inline constexpr int kAttendWarps = 8, kMostHead = 256;

struct AttendShared {
  float largest[kAttendWarps], sums[kAttendWarps];
  float parts[kAttendWarps][kMostHead];
};

// Block (row, query head): softmax over positions 0 to the row's own (of `window`, the last ones only, unless
// 0) of scale * q k, times values. Decoding and prompts alike; out in bf16, [row][query head][head]. Warps
// take every kAttendWarps-th position and merge at the end. kPairs: head / 64.
template <int kPairs>
NFLOAT_KERNEL void attend(const float* projected, const int* positions, AttentionShape shape, float scale,
                          int window, const uint16_t* keys, const uint16_t* values, uint16_t* out) {
  AttendShared& s = shared<AttendShared>();
  const int lane = thread() % 32, warp = thread() / 32, head = kPairs * 64;
  const int row = block_x(), query = block_y(), key_head = query / (shape.query_heads / shape.key_heads);
  const float* q = projected + (int64_t{row} * (shape.query_heads + 2 * shape.key_heads) + query) * head;
  const int last = positions[row], first = window > 0 && last >= window ? last - window + 1 : 0;
  float mine[kPairs][2], sum[kPairs][2] = {};
  NFLOAT_UNROLL
  for (int i = 0; i < kPairs; ++i)
    for (int e = 0; e < 2; ++e) mine[i][e] = q[i * 64 + lane * 2 + e] * scale;
  float largest = -1e30f, total = 0;
  for (int position = first + warp; position <= last; position += kAttendWarps) {
    const int64_t at = (int64_t{key_head} * shape.capacity + position) * head / 2;
    const uint32_t* k = reinterpret_cast<const uint32_t*>(keys) + at;
    const uint32_t* v = reinterpret_cast<const uint32_t*>(values) + at;
    float score = 0;
    uint32_t pairs[kPairs];
    NFLOAT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const uint32_t pair = k[i * 32 + lane];
      pairs[i] = v[i * 32 + lane];
      score += mine[i][0] * bf16_value(pair & 0xffffu) + mine[i][1] * bf16_value(pair >> 16);
    }
    for (int mask = 16; mask > 0; mask /= 2) score += shuffle_xor(score, mask);
    const float higher = score > largest ? score : largest;
    const float keep = exponential(largest - higher), weight = exponential(score - higher);
    largest = higher;
    total = total * keep + weight;
    NFLOAT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      sum[i][0] = sum[i][0] * keep + weight * bf16_value(pairs[i] & 0xffffu);
      sum[i][1] = sum[i][1] * keep + weight * bf16_value(pairs[i] >> 16);
    }
  }
  s.largest[warp] = largest;
  s.sums[warp] = total;
  NFLOAT_UNROLL
  for (int i = 0; i < kPairs; ++i)
    for (int e = 0; e < 2; ++e) s.parts[warp][i * 64 + lane * 2 + e] = sum[i][e];
  barrier();
  float top = s.largest[0];
  for (int i = 1; i < kAttendWarps; ++i) top = s.largest[i] > top ? s.largest[i] : top;
  float denominator = 0;
  for (int i = 0; i < kAttendWarps; ++i) denominator += s.sums[i] * exponential(s.largest[i] - top);
  for (int i = thread(); i < head; i += threads()) {
    float value = 0;
    for (int w = 0; w < kAttendWarps; ++w) value += s.parts[w][i] * exponential(s.largest[w] - top);
    out[(int64_t{row} * shape.query_heads + query) * head + i] = round_bf16(value / denominator);
  }
}

enum class Activation : int { kSilu, kGeluTanh };

// out[row][i] = activation(gate) * up, from rows of [gate, up] in float32, to bf16.
template <Activation kActivation>
NFLOAT_KERNEL void activate(const float* gate_up, int64_t rows, int width, uint16_t* out) {
  for (int64_t i = int64_t{block_x()} * threads() + thread(); i < rows * width;
       i += int64_t{blocks_x()} * threads()) {
    const int64_t row = i / width, column = i % width;
    const float gate = gate_up[row * 2 * width + column], up = gate_up[row * 2 * width + width + column];
    // tanh-GELU is gate * logistic(2 * sqrt(2 / pi) * (gate + 0.044715 gate^3)).
    const float inner = kActivation == Activation::kSilu
                            ? gate
                            : 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate);
    out[i] = round_bf16(gate / (1.0f + exponential(-inner)) * up);
  }
}

// residual[row] = table[tokens[row]], bf16 to float32.
NFLOAT_KERNEL void embed(const uint16_t* table, const int* tokens, int width, float* residual) {
  const uint16_t* from = table + int64_t{tokens[block_x()]} * width;
  for (int i = thread(); i < width; i += threads())
    residual[int64_t{block_x()} * width + i] = bf16_value(from[i]);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_TRANSFORMER_H_
