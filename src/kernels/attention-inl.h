// SPDX-License-Identifier: Apache-2.0
// Compiled once per target. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/attention.h"
#include "kernels/simd/lanes.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// Queries that share what is loaded of a key or a value; with two groups of keys, or kValueVectors of a
// value, the sums of a tile fill half of the registers.
inline constexpr int kQueryTile = kLaneBytes == 64 ? 8 : 4;
inline constexpr int kValueVectors = 2;
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

static void layer_norm(const float* input, const float* weight, const float* bias, float epsilon,
                       int64_t count, float* output) noexcept {
  // Two passes: the variance of what is left when the mean is gone.
  const auto sum_over = [&](auto&& of) {
    Floats sums = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) sums += of(load(input + i));
    float sum = sum_of_lanes(sums);
    for (; i < count; ++i) sum += of(broadcast(input[i]))[0];
    return sum / static_cast<float>(count);
  };
  const float mean = sum_over([](Floats x) { return x; });
  const float variance = sum_over([mean](Floats x) { return (x - mean) * (x - mean); });
  const float factor = 1.0f / square_root(variance + epsilon);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    store(output + i, (load(input + i) - mean) * factor * load(weight + i) + load(bias + i));
  for (; i < count; ++i) output[i] = (input[i] - mean) * factor * weight[i] + bias[i];
}

static inline Floats sigmoid(Floats x) noexcept {
  const Floats one = broadcast(1.0f);
  const Floats most = broadcast(87.0f);
  return one / (one + exponential(-x > most ? most : -x));
}

static inline Floats hyperbolic_tangent(Floats x) noexcept {
  const Floats magnitude = x < Floats{} ? -x : x;
  const Floats power = exponential(magnitude * -2.0f);
  const Floats far = (broadcast(1.0f) - power) / (broadcast(1.0f) + power);
  // The difference above loses digits near zero; there the series is exact to float32.
  const Floats square = x * x;
  Floats near = broadcast(62.0f / 2835);
  constexpr float kTerms[] = {-17.0f / 315, 2.0f / 15, -1.0f / 3, 1.0f};
  for (const float term : kTerms) near = multiply_add(near, square, broadcast(term));
  return magnitude < broadcast(0.25f) ? x * near : (x < Floats{} ? -far : far);
}

template <Activation kActivation>
static inline Floats activation(Floats x) noexcept {
  switch (kActivation) {
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kQuickGelu:
      return x * sigmoid(x * 1.702f);
    case Activation::kGeluTanh:  // (1 + tanh(u)) / 2 = sigmoid(2 u)
      return x * sigmoid(x * multiply_add(x * x, broadcast(0.0713548162726f), broadcast(1.59576912160573f)));
    case Activation::kGelu: {
      Floats y;
      for (int i = 0; i < kLanes; ++i) y[i] = 0.5f * x[i] * __builtin_erfcf(x[i] * -0.70710678118655f);
      return y;
    }
    case Activation::kRelu:
      return maximum(x, Floats{});
  }
  return x;
}

template <Activation kActivation>
static void activate_as(float* gate, const float* up, int64_t count) noexcept {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats y = activation<kActivation>(load(gate + i));
    store(gate + i, up == nullptr ? y : y * load(up + i));
  }
  if (i == count) return;
  float tail[kLanes] = {};
  for (int64_t j = i; j < count; ++j) tail[j - i] = gate[j];
  store(tail, activation<kActivation>(load(tail)));
  for (int64_t j = i; j < count; ++j) gate[j] = up == nullptr ? tail[j - i] : tail[j - i] * up[j];
}

static void activate(Activation activation, float* gate, const float* up, int64_t count) noexcept {
  switch (activation) {
    case Activation::kSilu:
      return activate_as<Activation::kSilu>(gate, up, count);
    case Activation::kGelu:
      return activate_as<Activation::kGelu>(gate, up, count);
    case Activation::kGeluTanh:
      return activate_as<Activation::kGeluTanh>(gate, up, count);
    case Activation::kQuickGelu:
      return activate_as<Activation::kQuickGelu>(gate, up, count);
    case Activation::kRelu:
      return activate_as<Activation::kRelu>(gate, up, count);
  }
}

static void softcap(float* x, float cap, int64_t count) noexcept {
  const float inverse = 1.0f / cap;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, hyperbolic_tangent(load(x + i) * inverse) * cap);
  for (; i < count; ++i) x[i] = hyperbolic_tangent(broadcast(x[i] * inverse))[0] * cap;
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

// NaN where a number is not finite, so that what is computed from it shows it.
static inline float int8_scale(const float* x, int64_t count) noexcept {
  float largest = 0, zero = 0;  // NaN * 0 and infinity * 0 are NaN
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = x[i] < 0 ? -x[i] : x[i];
    largest = magnitude > largest ? magnitude : largest;
    zero += x[i] * 0;
  }
  return largest / 127.0f + zero;
}

// `scale`: of int8_scale(); `inverse`: 0 where that is not above zero.
static inline int8_t to_int8(float x, float scale, float inverse) noexcept {
  if (!(scale > 0)) return 0;
  const float scaled = x * inverse;
  return static_cast<int8_t>(static_cast<int32_t>(scaled + (scaled < 0 ? -0.5f : 0.5f)));
}

// A head's part of one page.
template <typename Element>
struct KvPage {
  Element* keys;
  Element* values;
  float* key_scales;  // of int8 only, as the next
  float* value_scales;
};

// The page of the positions from `block` on.
template <typename Element>
static inline KvPage<Element> page_of(const KvHead& cache, int64_t block) noexcept {
  Element* keys = reinterpret_cast<Element*>(cache.pages[block / kAttentionBlock] + cache.offset);
  Element* values = keys + kAttentionBlock * cache.head_dim;
  float* scales = reinterpret_cast<float*>(values + kAttentionBlock * cache.head_dim);
  return {keys, values, scales, scales + kAttentionBlock};
}

static void store_position(const KvHead& cache, int64_t position, const float* key,
                           const float* value) noexcept {
  const int64_t head_dim = cache.head_dim;
  const int64_t inside = position % kAttentionBlock;
  const int64_t first_key = inside / kKeyGroup * kKeyGroup * head_dim + inside % kKeyGroup;
  const int64_t first_value = inside * head_dim;
  switch (cache.type) {
    case KvType::kF32: {
      const KvPage<float> page = page_of<float>(cache, position);
      for (int64_t d = 0; d < head_dim; ++d) page.keys[first_key + d * kKeyGroup] = key[d];
      std::memcpy(page.values + first_value, value, static_cast<size_t>(head_dim) * 4);
      return;
    }
    case KvType::kF16: {
      const KvPage<uint16_t> page = page_of<uint16_t>(cache, position);
      for (int64_t d = 0; d < head_dim; ++d)
        page.keys[first_key + d * kKeyGroup] = float_to_f16(clamp_to_half(key[d]));
      for (int64_t d = 0; d < head_dim; ++d)
        page.values[first_value + d] = float_to_f16(clamp_to_half(value[d]));
      return;
    }
    case KvType::kInt8: {
      const KvPage<int8_t> page = page_of<int8_t>(cache, position);
      const float key_scale = int8_scale(key, head_dim), value_scale = int8_scale(value, head_dim);
      const float key_inverse = key_scale > 0 ? 1 / key_scale : 0;
      const float value_inverse = value_scale > 0 ? 1 / value_scale : 0;
      page.key_scales[inside] = key_scale;
      page.value_scales[inside] = value_scale;
      for (int64_t d = 0; d < head_dim; ++d)
        page.keys[first_key + d * kKeyGroup] = to_int8(key[d], key_scale, key_inverse);
      for (int64_t d = 0; d < head_dim; ++d)
        page.values[first_value + d] = to_int8(value[d], value_scale, value_inverse);
      return;
    }
  }
}

constexpr int64_t kLineBytes = 64;  // of the caches

// How an element of a cache is read.
template <KvType kType>
struct Element;
template <>
struct Element<KvType::kF32> {
  using Type = float;
  static Floats load(const float* from) noexcept { return NFLOAT_TARGET_NAMESPACE::load(from); }
};
template <>
struct Element<KvType::kF16> {
  using Type = uint16_t;
  static Floats load(const uint16_t* from) noexcept { return load_f16(from); }
};
template <>
struct Element<KvType::kInt8> {
  using Type = int8_t;
  static Floats load(const int8_t* from) noexcept { return load_int8(from); }
};

template <KvType kType>
inline constexpr int64_t kLineElements = kLineBytes /
                                         static_cast<int64_t>(sizeof(typename Element<kType>::Type));

// scores[q][position - block] of kGroups groups of positions. `values` of the same positions are as many
// bytes: they are asked for meanwhile, since what a processor fetches by itself ends with a page and starts
// late.
template <KvType kType, int kQueries, int kGroups>
static inline void score_groups(const typename Element<kType>::Type* keys,
                                const typename Element<kType>::Type* values, int64_t head_dim,
                                const float* key_scales, const float* const* query, float* scores) noexcept {
  constexpr int kVectors = kGroups * kGroupVectors;
  Floats sums[kQueries][kVectors] = {};
  for (int64_t d = 0; d < head_dim; ++d) {
    constexpr int64_t kStep = kGroups * kKeyGroup;  // of values while one row of keys is read
    for (int64_t i = 0; i < kStep; i += kLineElements<kType>) __builtin_prefetch(values + d * kStep + i);
    Floats k[kVectors];
    for (int v = 0; v < kVectors; ++v)
      k[v] = Element<kType>::load(keys + v / kGroupVectors * kKeyGroup * head_dim + d * kKeyGroup +
                                  v % kGroupVectors * kLanes);
    for (int q = 0; q < kQueries; ++q) {
      const Floats x = broadcast(query[q][d]);
      for (int v = 0; v < kVectors; ++v) sums[q][v] = multiply_add(x, k[v], sums[q][v]);
    }
  }
  for (int q = 0; q < kQueries; ++q)
    for (int v = 0; v < kVectors; ++v) {
      const Floats sum = kType == KvType::kInt8 ? sums[q][v] * load(key_scales + v * kLanes) : sums[q][v];
      store(scores + q * kAttentionBlock + v * kLanes, sum);
    }
}

// scores[q][position - block] for the positions [first, last), whole groups.
template <KvType kType, int kQueries>
static inline void score(const KvHead& cache, int64_t block, int64_t first, int64_t last,
                         const float* const* query, float* scores) noexcept {
  constexpr int kGroups = kLaneBytes == 16 ? 1 : 2;
  const auto page = page_of<typename Element<kType>::Type>(cache, block);
  const auto scales = [&](int64_t i) { return kType == KvType::kInt8 ? page.key_scales + i : nullptr; };
  int64_t i = first;
  for (; i + kGroups * kKeyGroup <= last; i += kGroups * kKeyGroup)
    score_groups<kType, kQueries, kGroups>(page.keys + i * cache.head_dim, page.values + i * cache.head_dim,
                                           cache.head_dim, scales(i), query, scores + i);
  for (; i < last; i += kKeyGroup)
    score_groups<kType, kQueries, 1>(page.keys + i * cache.head_dim, page.values + i * cache.head_dim,
                                     cache.head_dim, scales(i), query, scores + i);
}

// sums[q] += sum over the positions [first, last) of the block of weights[q][position] * value. With `more`,
// a block follows, whose keys are asked for.
template <KvType kType, int kQueries>
static inline void accumulate(const KvHead& cache, int64_t block, int64_t first, int64_t last, bool more,
                              const float* weights, float* const* sums) noexcept {
  const int64_t head_dim = cache.head_dim;
  using Type = typename Element<kType>::Type;
  const Type* values = page_of<Type>(cache, block).values;
  const Type* keys = page_of<Type>(cache, more ? block + kAttentionBlock : block).keys;
  int64_t d = 0;
  const auto columns = [&]<int kVectors>() {
    Floats sum[kQueries][kVectors];
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kVectors; ++v) sum[q][v] = load(sums[q] + d + v * kLanes);
    for (int64_t position = first; position < last; ++position) {
      if (more)
        for (int64_t i = 0; i < kVectors * kLanes; i += kLineElements<kType>)
          __builtin_prefetch(keys + position * head_dim + d + i);
      Floats x[kVectors];
      for (int v = 0; v < kVectors; ++v)
        x[v] = Element<kType>::load(values + position * head_dim + d + v * kLanes);
      for (int q = 0; q < kQueries; ++q) {
        const Floats weight = broadcast(weights[q * kAttentionBlock + position]);
        for (int v = 0; v < kVectors; ++v) sum[q][v] = multiply_add(weight, x[v], sum[q][v]);
      }
    }
    for (int q = 0; q < kQueries; ++q)
      for (int v = 0; v < kVectors; ++v) store(sums[q] + d + v * kLanes, sum[q][v]);
    d += kVectors * kLanes;
  };
  // Few queries leave registers for more of a value.
  if constexpr (kQueries * 4 <= kQueryTile * kValueVectors)
    while (d + 4 * kLanes <= head_dim) columns.template operator()<4>();
  while (d + kValueVectors * kLanes <= head_dim) columns.template operator()<kValueVectors>();
  while (d + kLanes <= head_dim) columns.template operator()<1>();
  if (d == head_dim) return;
  for (int64_t position = first; position < last; ++position) {
    typename Element<kType>::Type tail[kLanes] = {};
    for (int64_t i = d; i < head_dim; ++i) tail[i - d] = values[position * head_dim + i];
    const Floats x = Element<kType>::load(tail);
    for (int q = 0; q < kQueries; ++q)
      store(sums[q] + d,
            multiply_add(broadcast(weights[q * kAttentionBlock + position]), x, load(sums[q] + d)));
  }
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

// Tiles of one call of attend: the running sums and, for each query, the largest score and the sum of
// weights.
struct AttentionState {
  int64_t padded;  // floats of a sum
  float* scores;   // [kQueryTile][kAttentionBlock]
  float* sums;     // [queries][padded]
  float* largest;  // [queries]
  float* total;    // [queries]
};

template <KvType kType, int kQueries>
static void attend_tile(const AttentionArgs& args, int64_t query, int64_t block, bool more,
                        const AttentionState& state) noexcept {
  int64_t low[kQueries], high[kQueries];
  int64_t first = kAttentionBlock, last = 0;
  float* sum[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    const int64_t begin = args.begins[query + q] - block, end = args.ends[query + q] - block;
    low[q] = begin > 0 ? begin : 0;
    high[q] = end < kAttentionBlock ? end : kAttentionBlock;
    if (low[q] < high[q] && low[q] < first) first = low[q];
    if (low[q] < high[q] && high[q] > last) last = high[q];
    sum[q] = state.sums + (query + q) * state.padded;
  }
  if (first >= last) return;
  const int64_t first_group = first / kKeyGroup * kKeyGroup;
  const int64_t last_group = (last + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
  score<kType, kQueries>(args.cache, block, first_group, last_group, args.query + query, state.scores);
  for (int q = 0; q < kQueries; ++q) {
    float* own = state.scores + q * kAttentionBlock;
    if (args.softcap > 0) softcap(own + first_group, args.softcap, last_group - first_group);
    if (low[q] >= high[q]) {
      for (int64_t i = first_group; i < last_group; ++i) own[i] = 0;
      continue;
    }
    const float factor = softmax_step(own, first_group, last_group, low[q], high[q],
                                      state.largest + query + q, state.total + query + q);
    if (factor != 1.0f)
      for (int64_t d = 0; d < state.padded; d += kLanes) store(sum[q] + d, load(sum[q] + d) * factor);
    if constexpr (kType == KvType::kInt8)
      for (int64_t i = first; i < last; ++i) own[i] *= page_of<int8_t>(args.cache, block).value_scales[i];
  }
  accumulate<kType, kQueries>(args.cache, block, first, last, more, state.scores, sum);
}

template <KvType kType>
static void attend_as(const AttentionArgs& args, const AttentionState& state, int64_t begin,
                      int64_t end) noexcept {
  for (int64_t block = begin / kAttentionBlock * kAttentionBlock; block < end; block += kAttentionBlock) {
    const bool more = block + kAttentionBlock < end;
    int64_t query = 0;
    for (; query + kQueryTile <= args.queries; query += kQueryTile)
      attend_tile<kType, kQueryTile>(args, query, block, more, state);
    if constexpr (kQueryTile > 4)
      for (; query + 4 <= args.queries; query += 4) attend_tile<kType, 4>(args, query, block, more, state);
    for (; query + 2 <= args.queries; query += 2) attend_tile<kType, 2>(args, query, block, more, state);
    for (; query < args.queries; ++query) attend_tile<kType, 1>(args, query, block, more, state);
  }
}

static void attend(const AttentionArgs& args) noexcept {
  const int64_t head_dim = args.cache.head_dim;
  AttentionState state;
  state.padded = (head_dim + 15) / 16 * 16;
  state.scores = args.scratch;
  state.sums = state.scores + kMaxQueryTile * kAttentionBlock;
  state.largest = state.sums + args.queries * state.padded;
  state.total = state.largest + args.queries;
  static_assert(kQueryTile <= kMaxQueryTile);

  int64_t begin = args.begins[0], end = args.ends[0];
  for (int64_t q = 0; q < args.queries; ++q) {
    begin = args.begins[q] < begin ? args.begins[q] : begin;
    end = args.ends[q] > end ? args.ends[q] : end;
    state.largest[q] = args.sinks != nullptr ? args.sinks[q] : -1e30f;
    state.total[q] = args.sinks != nullptr ? 1.0f : 0.0f;
  }
  for (int64_t i = 0; i < args.queries * state.padded; ++i) state.sums[i] = 0;
  switch (args.cache.type) {
    case KvType::kF32:
      attend_as<KvType::kF32>(args, state, begin, end);
      break;
    case KvType::kF16:
      attend_as<KvType::kF16>(args, state, begin, end);
      break;
    case KvType::kInt8:
      attend_as<KvType::kInt8>(args, state, begin, end);
      break;
  }
  for (int64_t q = 0; q < args.queries; ++q) {
    const float factor = 1.0f / state.total[q];
    for (int64_t d = 0; d < head_dim; ++d) args.output[q][d] = state.sums[q * state.padded + d] * factor;
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
                                                           .layer_norm = layer_norm,
                                                           .activate = activate,
                                                           .softcap = softcap,
                                                           .rotate = rotate,
                                                           .store = store_position,
                                                           .attend = attend,
                                                           .sum_exp = sum_exp};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
