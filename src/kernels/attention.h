// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_ATTENTION_H_
#define NFLOAT_KERNELS_ATTENTION_H_

#include <cstddef>
#include <cstdint>

namespace nfloat::kernels {

enum class KvType : uint8_t { kF32, kF16, kInt8 };

inline constexpr int64_t kKeyGroup = 16;         // positions whose keys are interleaved
inline constexpr int64_t kAttentionBlock = 128;  // positions a softmax step takes at once

// Keys and values of one layer and one key-value head, in pages of kAttentionBlock positions: page p of a
// sequence has the head's at pages[p] + offset.
// keys: groups of 16 positions, each [head_dim][16], so that a lane is a position; then values:
// [position][head_dim]; of int8, then a float for each key and for each value: element * scale of its
// position.
struct KvHead {
  KvType type;
  int64_t head_dim;
  std::byte* const* pages;
  int64_t offset;
};

// Bytes of one head in a page.
inline constexpr int64_t kv_head_bytes(KvType type, int64_t head_dim) noexcept {
  const int64_t element = type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1;
  return 2 * kAttentionBlock * (head_dim * element + (type == KvType::kInt8 ? 4 : 0));
}

// Queries of one key-value head. Query i sees the positions [begins[i], ends[i]), at least one.
struct AttentionArgs {
  KvHead cache;
  int64_t queries;
  const float* const*
      query;             // `queries` pointers to head_dim floats, already multiplied by the softmax scale
  float* const* output;  // `queries` pointers to head_dim floats
  const int64_t* begins;
  const int64_t* ends;
  float* scratch;                // attention_scratch_floats(head_dim, queries)
  float softcap = 0;             // > 0: scores become softcap * tanh(score / softcap)
  const float* sinks = nullptr;  // one a query: a score that takes weight and gives no value
};

inline constexpr int64_t kMaxQueryTile = 8;  // queries that a target takes at once, at most

inline constexpr int64_t attention_scratch_floats(int64_t head_dim, int64_t queries) noexcept {
  return kMaxQueryTile * kAttentionBlock + queries * ((head_dim + 15) / 16 * 16 + 2);
}

enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu };

// The parts of a transformer layer that are no matrix product.
struct TransformerKernels {
  // output = input / sqrt(mean(input^2) + epsilon) * weight.
  void (*rms_norm)(const float* input, const float* weight, float epsilon, int64_t count,
                   float* output) noexcept;
  // output = (input - mean) / sqrt(variance + epsilon) * weight + bias.
  void (*layer_norm)(const float* input, const float* weight, const float* bias, float epsilon, int64_t count,
                     float* output) noexcept;
  // gate[i] = activation(gate[i]), times up[i] unless up is null; relative error of silu below 1e-6.
  void (*activate)(Activation activation, float* gate, const float* up, int64_t count) noexcept;
  // x[i] = cap * tanh(x[i] / cap).
  void (*softcap)(float* x, float cap, int64_t count) noexcept;
  // input and table: [head_dim]; output = rotated * scale. In place allowed.
  void (*rotate)(const float* input, const float* table, float scale, int64_t head_dim,
                 float* output) noexcept;
  // Writes one position. Values beyond the largest half are clamped to it.
  void (*store)(const KvHead& cache, int64_t position, const float* key, const float* value) noexcept;
  // Softmax attention in float32, one pass over blocks of positions. Deterministic: the result of a query
  // does not depend on the other queries of the call.
  void (*attend)(const AttentionArgs& args) noexcept;
  // sum of exp(x[i] - maximum) in float32 vectors summed in double, for losses over a vocabulary.
  double (*sum_exp)(const float* x, float maximum, int64_t count) noexcept;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_ATTENTION_H_
