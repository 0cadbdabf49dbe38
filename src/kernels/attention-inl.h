// SPDX-License-Identifier: Apache-2.0
// Compiled once per target. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/attention.h"
#include "kernels/simd/lanes.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

inline constexpr int kQueryTile = 4;
inline constexpr int kGroupVectors = static_cast<int>(kKeyGroup) / kLanes;
inline constexpr float kLargestHalf = 65504.0f;

// C's sqrtf without the library's errno path.
static inline float square_root(float x) noexcept {
  return __builtin_sqrtf(x);
}

static void rms_norm(const float* input, const float* weight, float epsilon, int64_t count,
                     float* output) noexcept {
  Floats sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) {
      const Floats x = load(input + i + j * kLanes);
      sums[j] = multiply_add(x, x, sums[j]);
    }
  float sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) sum += input[i] * input[i];
  const float factor = 1.0f / square_root(sum / static_cast<float>(count) + epsilon);
  for (i = 0; i + kLanes <= count; i += kLanes)
    store(output + i, load(input + i) * factor * load(weight + i));
  for (; i < count; ++i) output[i] = input[i] * factor * weight[i];
}

static inline Floats silu(Floats x) noexcept {
  const Floats one = broadcast(1.0f);
  const Floats most = broadcast(88.0f);
  return x / (one + exponential(-x > most ? most : -x));
}

static void silu_multiply(float* gate, const float* up, int64_t count) noexcept {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(gate + i, silu(load(gate + i)) * load(up + i));
  if (i == count) return;
  float tail[kLanes] = {};
  for (int64_t j = i; j < count; ++j) tail[j - i] = gate[j];
  store(tail, silu(load(tail)));
  for (int64_t j = i; j < count; ++j) gate[j] = tail[j - i] * up[j];
}

static void rotate(const float* input, const float* table, float scale, int64_t head_dim,
                   float* output) noexcept {
  const int64_t half = head_dim / 2;
  const float* cosine = table;
  const float* sine = table + half;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Floats low = load(input + i), high = load(input + half + i);
    const Floats c = load(cosine + i), s = load(sine + i);
    store(output + i, (low * c - high * s) * scale);
    store(output + half + i, (high * c + low * s) * scale);
  }
  for (; i < half; ++i) {
    const float low = input[i], high = input[half + i];
    output[i] = (low * cosine[i] - high * sine[i]) * scale;
    output[half + i] = (high * cosine[i] + low * sine[i]) * scale;
  }
}

static inline float clamp_to_half(float x) noexcept {
  return x > kLargestHalf ? kLargestHalf : x < -kLargestHalf ? -kLargestHalf : x;
}

static inline float int8_scale(const float* x, int64_t count) noexcept {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = x[i] < 0 ? -x[i] : x[i];
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest / 127.0f;
}

static inline int8_t to_int8(float x) noexcept {
  return static_cast<int8_t>(static_cast<int32_t>(x + (x < 0 ? -0.5f : 0.5f)));
}

static void store_position(const KvHead& cache, int64_t position, const float* key,
                           const float* value) noexcept {
  const int64_t head_dim = cache.head_dim;
  const int64_t first_key = position / kKeyGroup * kKeyGroup * head_dim + position % kKeyGroup;
  const int64_t first_value = position * head_dim;
  switch (cache.type) {
    case KvType::kF32: {
      float* keys = static_cast<float*>(cache.keys) + first_key;
      for (int64_t d = 0; d < head_dim; ++d) keys[d * kKeyGroup] = key[d];
      std::memcpy(static_cast<float*>(cache.values) + first_value, value, static_cast<size_t>(head_dim) * 4);
      return;
    }
    case KvType::kF16: {
      uint16_t* keys = static_cast<uint16_t*>(cache.keys) + first_key;
      uint16_t* values = static_cast<uint16_t*>(cache.values) + first_value;
      for (int64_t d = 0; d < head_dim; ++d) keys[d * kKeyGroup] = float_to_f16(clamp_to_half(key[d]));
      for (int64_t d = 0; d < head_dim; ++d) values[d] = float_to_f16(clamp_to_half(value[d]));
      return;
    }
    case KvType::kInt8: {
      int8_t* keys = static_cast<int8_t*>(cache.keys) + first_key;
      int8_t* values = static_cast<int8_t*>(cache.values) + first_value;
      const float key_scale = int8_scale(key, head_dim), value_scale = int8_scale(value, head_dim);
      const float key_inverse = key_scale > 0 ? 1 / key_scale : 0;
      const float value_inverse = value_scale > 0 ? 1 / value_scale : 0;
      cache.key_scales[position] = key_scale;
      cache.value_scales[position] = value_scale;
      for (int64_t d = 0; d < head_dim; ++d) keys[d * kKeyGroup] = to_int8(key[d] * key_inverse);
      for (int64_t d = 0; d < head_dim; ++d) values[d] = to_int8(value[d] * value_inverse);
      return;
    }
  }
}

// Keys of the positions [first, last), whole groups, to float32 in the cache's own order.
static void decode_keys(const KvHead& cache, int64_t first, int64_t last, float* output) noexcept {
  const int64_t head_dim = cache.head_dim;
  const int64_t begin = first * head_dim;
  const int64_t count = (last - first) * head_dim;
  switch (cache.type) {
    case KvType::kF32:
      std::memcpy(output, static_cast<const float*>(cache.keys) + begin, static_cast<size_t>(count) * 4);
      return;
    case KvType::kF16: {
      const uint16_t* keys = static_cast<const uint16_t*>(cache.keys) + begin;
      for (int64_t i = 0; i < count; i += kLanes) store(output + i, load_f16(keys + i));
      return;
    }
    case KvType::kInt8: {
      const int8_t* keys = static_cast<const int8_t*>(cache.keys) + begin;
      for (int64_t group = first; group < last; group += kKeyGroup) {
        Floats scales[kGroupVectors];
        for (int v = 0; v < kGroupVectors; ++v) scales[v] = load(cache.key_scales + group + v * kLanes);
        const int64_t offset = (group - first) * head_dim;
        for (int64_t d = 0; d < head_dim; ++d)
          for (int v = 0; v < kGroupVectors; ++v) {
            const int64_t i = offset + d * kKeyGroup + v * kLanes;
            store(output + i, load_int8(keys + i) * scales[v]);
          }
      }
      return;
    }
  }
}

// Values of the positions [first, last) to float32 rows of `padded` floats, the padding zero.
static void decode_values(const KvHead& cache, int64_t first, int64_t last, int64_t padded,
                          float* output) noexcept {
  const int64_t head_dim = cache.head_dim;
  for (int64_t position = first; position < last; ++position, output += padded) {
    const int64_t begin = position * head_dim;
    int64_t d = 0;
    switch (cache.type) {
      case KvType::kF32:
        std::memcpy(output, static_cast<const float*>(cache.values) + begin,
                    static_cast<size_t>(head_dim) * 4);
        d = head_dim;
        break;
      case KvType::kF16: {
        const uint16_t* values = static_cast<const uint16_t*>(cache.values) + begin;
        for (; d + kLanes <= head_dim; d += kLanes) store(output + d, load_f16(values + d));
        for (; d < head_dim; ++d) output[d] = f16_to_float(values[d]);
        break;
      }
      case KvType::kInt8: {
        const int8_t* values = static_cast<const int8_t*>(cache.values) + begin;
        const float scale = cache.value_scales[position];
        for (; d + kLanes <= head_dim; d += kLanes) store(output + d, load_int8(values + d) * scale);
        for (; d < head_dim; ++d) output[d] = static_cast<float>(values[d]) * scale;
        break;
      }
    }
    for (; d < padded; ++d) output[d] = 0;
  }
}

// scores[q][position - first] for the groups of [first, last).
template <int kQueries>
static inline void score(const float* keys, int64_t head_dim, int64_t first, int64_t last,
                         const float* const* query, float* scores) noexcept {
  for (int64_t position = first; position < last; position += kKeyGroup) {
    const float* group = keys + position * head_dim;
    Floats sums[kQueries][kGroupVectors] = {};
    for (int64_t d = 0; d < head_dim; ++d) {
      Floats k[kGroupVectors];
      for (int v = 0; v < kGroupVectors; ++v) k[v] = load(group + d * kKeyGroup + v * kLanes);
      for (int q = 0; q < kQueries; ++q) {
        const Floats x = broadcast(query[q][d]);
        for (int v = 0; v < kGroupVectors; ++v) sums[q][v] = multiply_add(x, k[v], sums[q][v]);
      }
    }
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kGroupVectors; ++v)
        store(scores + q * kAttentionBlock + position + v * kLanes, sums[q][v]);
  }
}

// sums[q] += sum over [first, last) of weights[q][position] * values[position].
template <int kQueries>
static inline void accumulate(const float* values, int64_t padded, int64_t first, int64_t last,
                              const float* weights, float* const* sums) noexcept {
  constexpr int kVectors = kLaneBytes == 64 ? 4 : 2;
  int64_t d = 0;
  const auto columns = [&]<int kWidth>() {
    Floats sum[kQueries][kWidth];
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kWidth; ++v) sum[q][v] = load(sums[q] + d + v * kLanes);
    for (int64_t position = first; position < last; ++position) {
      Floats x[kWidth];
      for (int v = 0; v < kWidth; ++v) x[v] = load(values + position * padded + d + v * kLanes);
      for (int q = 0; q < kQueries; ++q) {
        const Floats weight = broadcast(weights[q * kAttentionBlock + position]);
        for (int v = 0; v < kWidth; ++v) sum[q][v] = multiply_add(weight, x[v], sum[q][v]);
      }
    }
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kWidth; ++v) store(sums[q] + d + v * kLanes, sum[q][v]);
  };
  for (; d + kVectors * kLanes <= padded; d += kVectors * kLanes) columns.template operator()<kVectors>();
  for (; d < padded; d += kLanes) columns.template operator()<1>();
}

// Turns the scores of one query into weights; [first, last) are the positions computed, [low, high) those it
// sees. Returns the factor for what was summed before.
static float softmax_step(float* scores, int64_t first, int64_t last, int64_t low, int64_t high,
                          float* largest, float* total) noexcept {
  constexpr float kNever = -1e30f;
  for (int64_t i = first; i < low; ++i) scores[i] = kNever;
  for (int64_t i = high; i < last; ++i) scores[i] = kNever;
  Floats most = broadcast(*largest);
  for (int64_t i = first; i < last; i += kLanes) most = maximum(load(scores + i), most);
  const float now = largest_lane(most);
  Floats sum = {};
  for (int64_t i = first; i < last; i += kLanes) {
    const Floats weight = exponential(load(scores + i) - now);
    store(scores + i, weight);
    sum += weight;
  }
  const float factor = exponential(broadcast(*largest - now))[0];
  *largest = now;
  *total = *total * factor + sum_of_lanes(sum);
  return factor;
}

template <int kQueries>
static void attend_tile(const AttentionArgs& args, int64_t query, int64_t block, const float* keys,
                        const float* values, int64_t padded, float* scores, float* sums,
                        float* state) noexcept {
  int64_t low[kQueries], high[kQueries];
  int64_t first = kAttentionBlock, last = 0;
  float* sum[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    const int64_t begin = args.begins[query + q] - block, end = args.ends[query + q] - block;
    low[q] = begin > 0 ? begin : 0;
    high[q] = end < kAttentionBlock ? end : kAttentionBlock;
    if (low[q] < high[q] && low[q] < first) first = low[q];
    if (low[q] < high[q] && high[q] > last) last = high[q];
    sum[q] = sums + (query + q) * padded;
  }
  if (first >= last) return;
  const int64_t first_group = first / kKeyGroup * kKeyGroup;
  const int64_t last_group = (last + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
  score<kQueries>(keys, args.cache.head_dim, first_group, last_group, args.query + query, scores);
  for (int q = 0; q < kQueries; ++q) {
    float* own = scores + q * kAttentionBlock;
    float* own_state = state + 2 * (query + q);
    if (low[q] >= high[q]) {
      for (int64_t i = first_group; i < last_group; ++i) own[i] = 0;
      continue;
    }
    const float factor =
        softmax_step(own, first_group, last_group, low[q], high[q], own_state, own_state + 1);
    if (factor != 1.0f)
      for (int64_t d = 0; d < padded; d += kLanes) store(sum[q] + d, load(sum[q] + d) * factor);
  }
  accumulate<kQueries>(values, padded, first, last, scores, sum);
}

static void attend(const AttentionArgs& args) noexcept {
  const int64_t head_dim = args.cache.head_dim;
  const int64_t padded = (head_dim + 15) / 16 * 16;
  float* keys = args.scratch;
  float* values = keys + kAttentionBlock * head_dim;
  float* scores = values + kAttentionBlock * padded;
  float* sums = scores + 4 * kAttentionBlock;
  float* state = sums + args.queries * padded;
  static_assert(kQueryTile == 4, "attention_scratch_floats counts four rows of scores");

  int64_t begin = args.begins[0], end = args.ends[0];
  for (int64_t q = 0; q < args.queries; ++q) {
    begin = args.begins[q] < begin ? args.begins[q] : begin;
    end = args.ends[q] > end ? args.ends[q] : end;
    state[2 * q] = -1e30f;
    state[2 * q + 1] = 0;
  }
  for (int64_t i = 0; i < args.queries * padded; ++i) sums[i] = 0;

  for (int64_t block = begin / kAttentionBlock * kAttentionBlock; block < end; block += kAttentionBlock) {
    const int64_t first = begin > block ? (begin - block) / kKeyGroup * kKeyGroup : 0;
    const int64_t last = end - block < kAttentionBlock ? end - block : kAttentionBlock;
    const int64_t last_group = (last + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
    decode_keys(args.cache, block + first, block + last_group, keys + first * head_dim);
    decode_values(args.cache, block + first, block + last, padded, values + first * padded);
    int64_t query = 0;
    for (; query + kQueryTile <= args.queries; query += kQueryTile)
      attend_tile<kQueryTile>(args, query, block, keys, values, padded, scores, sums, state);
    for (; query < args.queries; ++query)
      attend_tile<1>(args, query, block, keys, values, padded, scores, sums, state);
  }
  for (int64_t q = 0; q < args.queries; ++q) {
    const float factor = 1.0f / state[2 * q + 1];
    for (int64_t d = 0; d < head_dim; ++d) args.output[q][d] = sums[q * padded + d] * factor;
  }
}

static double sum_exp(const float* x, float largest, int64_t count) noexcept {
  double total = 0;
  int64_t i = 0;
  while (i + kLanes <= count) {
    Floats sum = {};
    for (int64_t end = i + 64 * kLanes; i < end && i + kLanes <= count; i += kLanes)
      sum += exponential(load(x + i) - largest);
    total += static_cast<double>(sum_of_lanes(sum));
  }
  for (; i < count; ++i) total += static_cast<double>(exponential(broadcast(x[i] - largest))[0]);
  return total;
}

inline constexpr TransformerKernels kTransformerKernels = {.rms_norm = rms_norm,
                                                           .silu_multiply = silu_multiply,
                                                           .rotate = rotate,
                                                           .store = store_position,
                                                           .attend = attend,
                                                           .sum_exp = sum_exp};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
