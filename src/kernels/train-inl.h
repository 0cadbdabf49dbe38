// SPDX-License-Identifier: Apache-2.0
// Kernels of train.h. Compiled once per target, behind attention-inl.h and gemm-inl.h, whose vocabulary it
// shares. Includer defines NFLOAT_TARGET_NAMESPACE.
#include "kernels/train.h"
#include "kernels/unroll.h"

#include "kernels/train-pairs-inl.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

// Sixteen lanes are one register with AVX-512, two with AVX2, four elsewhere.
#if defined(__AVX512F__)
inline constexpr int kProductRows = 12, kProductPanels = 2;
#else
inline constexpr int kProductRows = 6, kProductPanels = 1;
#endif

// A strip of b: its next 16 * kPanels columns, for at most kStripDepth values of l.
inline constexpr int64_t kStripDepth = 256;

template <int kRows, int kPanels>
static void product_tile(const ProductArgs& args, int64_t row, const float* strip, int64_t strip_stride,
                         int64_t column, int64_t columns) noexcept {
  F32x16 sums[kRows][kPanels];
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) sums[i][p] = splat16(0.0f);
  const float* a = args.a + row * args.a_row;
  for (int64_t l = 0; l < args.k; ++l, a += args.a_column, strip += strip_stride) {
    F32x16 lanes[kPanels];
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) lanes[p] = load16(strip + 16 * p);
    NFLOAT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const F32x16 one = splat16(a[i * args.a_row]);
      NFLOAT_UNROLL
      for (int p = 0; p < kPanels; ++p) sums[i][p] = fma16(one, lanes[p], sums[i][p]);
    }
  }
  const F32x16 alpha = splat16(args.alpha);
  NFLOAT_UNROLL
  for (int i = 0; i < kRows; ++i) NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    float* c = args.c + (row + i) * args.c_stride + column + 16 * p;
    const F32x16 product = multiply(sums[i][p], alpha);
    if (columns >= 16 * (p + 1)) {
      store16(c, args.accumulate ? add(load16(c), product) : product);
      continue;
    }
    float values[16];
    store16(values, product);
    for (int64_t j = 0; j < columns - 16 * p; ++j) c[j] = values[j] + (args.accumulate ? c[j] : 0.0f);
  }
}

// `rows` of at most kRows.
template <int kRows, int kPanels>
static void product_rows(const ProductArgs& args, int64_t row, int64_t rows, const float* strip,
                         int64_t strip_stride, int64_t column, int64_t columns) noexcept {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return product_rows<kRows - 1, kPanels>(args, row, rows, strip, strip_stride, column, columns);
  }
  product_tile<kRows, kPanels>(args, row, strip, strip_stride, column, columns);
}

// Strips that several tiles read are copied first: rows of b that lie a power of two apart would push one
// another out of the cache.
template <int kPanels>
static void product_strip(const ProductArgs& args, int64_t column, int64_t columns) noexcept {
  constexpr int64_t kWidth = 16 * kPanels;
  const float* strip = args.b + column;
  int64_t stride = args.b_stride;
  alignas(64) float copy[kStripDepth * kWidth];
  if (columns < kWidth || (args.m > kProductRows && stride != kWidth)) {
    for (int64_t l = 0; l < args.k; ++l) {
      const float* from = strip + l * stride;
      float* to = copy + l * kWidth;
      if (columns >= kWidth) {
        NFLOAT_UNROLL
        for (int p = 0; p < kPanels; ++p) store16(to + 16 * p, load16(from + 16 * p));
      } else {
        for (int64_t j = 0; j < kWidth; ++j) to[j] = j < columns ? from[j] : 0.0f;
      }
    }
    strip = copy;
    stride = kWidth;
  }
  // Tiles as even as they can be: sixteen rows are 6, 5 and 5 of them.
  const int64_t tiles = (args.m + kProductRows - 1) / kProductRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t begin = args.m * tile / tiles, end = args.m * (tile + 1) / tiles;
    product_rows<kProductRows, kPanels>(args, begin, end - begin, strip, stride, column, columns);
  }
}

static void product(const ProductArgs& all) noexcept {
  ProductArgs args = all;
  for (int64_t done = 0; done < all.k || done == 0; done += kStripDepth) {
    args.k = all.k - done < kStripDepth ? all.k - done : kStripDepth;
    int64_t column = 0;
    for (; column + 16 * kProductPanels <= args.n; column += 16 * kProductPanels)
      product_strip<kProductPanels>(args, column, 16 * kProductPanels);
    if constexpr (kProductPanels > 1)
      for (; column + 16 <= args.n; column += 16) product_strip<1>(args, column, 16);
    if (column < args.n) product_strip<kProductPanels>(args, column, args.n - column);
    args.a += kStripDepth * args.a_column;
    args.b += kStripDepth * args.b_stride;
    args.accumulate = true;
  }
}

template <int kPanels>
static void column_sums_of(const ColumnSumsArgs& args, int64_t panel) noexcept {
  const FloatLevels table = float_levels(*args.levels);
  F32x16 factors[kPanels];
  NFLOAT_UNROLL
  for (int p = 0; p < kPanels; ++p) factors[p] = load16(args.factors + (panel + p) * kPanelRows);
  const uint8_t* first = args.codes + panel * args.panel_bytes;
  for (int64_t octet = 0; octet < args.octets; ++octet, first += kPackedOctetBytes) {
    float* to = args.sums + octet * kOctet * kPanelRows;
    F32x16 sums[kOctet];
    NFLOAT_UNROLL
    for (int j = 0; j < kOctet; ++j) sums[j] = load16(to + kPanelRows * j);
    NFLOAT_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* from = first + p * args.panel_bytes;
      __builtin_prefetch(from + kPanels * args.panel_bytes);  // a page on: no processor foresees that
      const Bytes64 codes = load_bytes(from);
      sums[0] = fma16(lookup_floats<0>(codes, table), factors[p], sums[0]);
      sums[1] = fma16(lookup_floats<8>(codes, table), factors[p], sums[1]);
      sums[2] = fma16(lookup_floats<16>(codes, table), factors[p], sums[2]);
      sums[3] = fma16(lookup_floats<24>(codes, table), factors[p], sums[3]);
      sums[4] = fma16(lookup_floats<4>(codes, table), factors[p], sums[4]);
      sums[5] = fma16(lookup_floats<12>(codes, table), factors[p], sums[5]);
      sums[6] = fma16(lookup_floats<20>(codes, table), factors[p], sums[6]);
      sums[7] = fma16(lookup_floats<28>(codes, table), factors[p], sums[7]);
    }
    NFLOAT_UNROLL
    for (int j = 0; j < kOctet; ++j) store16(to + kPanelRows * j, sums[j]);
  }
}

// As many panels between a load and a store of the sums as there are registers for their factors.
static void column_sums(const ColumnSumsArgs& args) noexcept {
  int64_t panel = 0;
#if defined(__AVX512F__)
  for (; panel + 8 <= args.panels; panel += 8) column_sums_of<8>(args, panel);
#endif
  for (; panel + 4 <= args.panels; panel += 4) column_sums_of<4>(args, panel);
  for (; panel < args.panels; ++panel) column_sums_of<1>(args, panel);
}

// Eight columns of eight rows, 16 floats apart, times the rows' scales, to rows.
static inline void transpose8(const float* from, const float* scales, float* to, int64_t stride) noexcept {
#if defined(__AVX2__)
  const __m256 scale = scales == nullptr ? _mm256_set1_ps(1.0f) : _mm256_loadu_ps(scales);
  __m256 x[8], y[8];
  NFLOAT_UNROLL
  for (int i = 0; i < 8; ++i) x[i] = _mm256_mul_ps(_mm256_loadu_ps(from + 16 * i), scale);
  NFLOAT_UNROLL
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
  NFLOAT_UNROLL
  for (int i = 0; i < 8; i += 4) {
    x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
    x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
  NFLOAT_UNROLL
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * stride, _mm256_permute2f128_ps(x[i], x[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * stride, _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
  }
#else
  for (int r = 0; r < 8; ++r)
    for (int k = 0; k < 8; ++k)
      to[r * stride + k] = from[16 * k + r] * (scales == nullptr ? 1.0f : scales[r]);
#endif
}

static void panel_rows(const float* expanded, int64_t octets, const float* scales, int64_t octets_per_group,
                       int64_t rows, float* output, int64_t stride) noexcept {
  for (int64_t octet = 0; octet < octets; ++octet, expanded += 128, output += 8) {
    const float* own = scales == nullptr ? nullptr : scales + octet / octets_per_group * kPanelRows;
    for (int64_t half = 0; half < 2; ++half) {
      const float* half_scales = own == nullptr ? nullptr : own + 8 * half;
      float* to = output + 8 * half * stride;
      const int64_t count = rows - 8 * half;
      if (count >= 8) {
        transpose8(expanded + 8 * half, half_scales, to, stride);
      } else if (count > 0) {
        float all[64];
        transpose8(expanded + 8 * half, half_scales, all, 8);
        for (int64_t i = 0; i < count; ++i)
          for (int k = 0; k < 8; ++k) to[i * stride + k] = all[8 * i + k];
      }
    }
  }
}

static float exponentials(float* x, float shift, int64_t count) noexcept {
  Floats sum = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats y = exponential(load(x + i) - shift);
    store(x + i, y);
    sum += y;
  }
  float total = sum_of_lanes(sum);
  for (; i < count; ++i) total += x[i] = exponential(broadcast(x[i] - shift))[0];
  return total;
}

static float largest(const float* x, int64_t count) noexcept {
  Floats most = broadcast(-3.0e38f);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) most = maximum(load(x + i), most);
  float result = largest_lane(most);
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

static float dot(const float* x, const float* y, int64_t count) noexcept {
  Floats sum = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum = multiply_add(load(x + i), load(y + i), sum);
  float total = sum_of_lanes(sum);
  for (; i < count; ++i) total += x[i] * y[i];
  return total;
}

// activation'(x).
template <Activation kActivation>
static inline Floats slope(Floats x) noexcept {
  const Floats one = broadcast(1.0f);
  switch (kActivation) {
    case Activation::kSilu: {
      const Floats s = sigmoid(x);
      return s * (one + x * (one - s));
    }
    case Activation::kQuickGelu: {
      const Floats s = sigmoid(x * 1.702f);
      return s * (one + x * 1.702f * (one - s));
    }
    case Activation::kGeluTanh: {  // x sigmoid(u), u = x (a + b x^2)
      const Floats square = x * x;
      const Floats s =
          sigmoid(x * multiply_add(square, broadcast(0.0713548162726f), broadcast(1.59576912160573f)));
      const Floats du = multiply_add(square, broadcast(3 * 0.0713548162726f), broadcast(1.59576912160573f));
      return s * (one + x * du * (one - s));
    }
    case Activation::kGelu: {
      Floats y;
      for (int i = 0; i < kLanes; ++i) y[i] = 0.5f * __builtin_erfcf(x[i] * -0.70710678118655f);
      const Floats density = exponential(x * x * -0.5f) * 0.3989422804014327f;
      return y + x * density;
    }
    case Activation::kRelu:
      return x > Floats{} ? one : Floats{};
  }
  return one;
}

template <Activation kActivation>
static void activate_backward_as(const float* gate, const float* up, const float* dy, float* dgate,
                                 float* dup, int64_t count) noexcept {
  const auto one = [&](Floats g, Floats u, Floats d, Floats* dg, Floats* du) {
    *dg = d * u * slope<kActivation>(g);
    *du = d * activation<kActivation>(g);
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Floats dg, du;
    one(load(gate + i), up == nullptr ? broadcast(1.0f) : load(up + i), load(dy + i), &dg, &du);
    store(dgate + i, dg);
    if (up != nullptr) store(dup + i, du);
  }
  for (; i < count; ++i) {
    Floats dg, du;
    one(broadcast(gate[i]), broadcast(up == nullptr ? 1.0f : up[i]), broadcast(dy[i]), &dg, &du);
    dgate[i] = dg[0];
    if (up != nullptr) dup[i] = du[0];
  }
}

static void activate_backward(Activation activation, const float* gate, const float* up, const float* dy,
                              float* dgate, float* dup, int64_t count) noexcept {
  switch (activation) {
    case Activation::kSilu:
      return activate_backward_as<Activation::kSilu>(gate, up, dy, dgate, dup, count);
    case Activation::kGelu:
      return activate_backward_as<Activation::kGelu>(gate, up, dy, dgate, dup, count);
    case Activation::kGeluTanh:
      return activate_backward_as<Activation::kGeluTanh>(gate, up, dy, dgate, dup, count);
    case Activation::kQuickGelu:
      return activate_backward_as<Activation::kQuickGelu>(gate, up, dy, dgate, dup, count);
    case Activation::kRelu:
      return activate_backward_as<Activation::kRelu>(gate, up, dy, dgate, dup, count);
  }
}

// With n = (x - mean) f: dx = f (g - mean(g) - n mean(g n)), g = dy weight; without the mean for RMSNorm.
template <bool kCentred>
static void norm_backward(const float* x, const float* weight, float epsilon, int64_t count, const float* dy,
                          float* dx, bool accumulate) noexcept {
  const auto sum_over = [&](auto&& of) {
    Floats sums = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) sums += of(load(x + i), load(dy + i) * load(weight + i));
    float sum = sum_of_lanes(sums);
    for (; i < count; ++i) sum += of(broadcast(x[i]), broadcast(dy[i] * weight[i]))[0];
    return sum;
  };
  const float each = 1.0f / static_cast<float>(count);
  const float mean = kCentred ? sum_over([](Floats v, Floats) { return v; }) * each : 0.0f;
  const float variance = sum_over([mean](Floats v, Floats) { return (v - mean) * (v - mean); }) * each;
  const float factor = 1.0f / square_root(variance + epsilon);
  const float mean_g = kCentred ? sum_over([](Floats, Floats g) { return g; }) * each : 0.0f;
  const float along =
      sum_over([mean](Floats v, Floats g) { return (v - mean) * g; }) * each * factor * factor;
  const auto of = [&](Floats v, Floats g) { return (g - mean_g - (v - mean) * along) * factor; };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats d = of(load(x + i), load(dy + i) * load(weight + i));
    store(dx + i, accumulate ? load(dx + i) + d : d);
  }
  for (; i < count; ++i) {
    const float d = of(broadcast(x[i]), broadcast(dy[i] * weight[i]))[0];
    dx[i] = accumulate ? dx[i] + d : d;
  }
}

static void rms_norm_backward(const float* x, const float* weight, float epsilon, int64_t count,
                              const float* dy, float* dx, bool accumulate) noexcept {
  norm_backward<false>(x, weight, epsilon, count, dy, dx, accumulate);
}

static void layer_norm_backward(const float* x, const float* weight, float epsilon, int64_t count,
                                const float* dy, float* dx, bool accumulate) noexcept {
  norm_backward<true>(x, weight, epsilon, count, dy, dx, accumulate);
}

#if defined(__AVX512BF16__)
inline constexpr const PairKernels* kPairs = &kPairKernels;
#else
inline constexpr const PairKernels* kPairs = nullptr;
#endif

inline constexpr TrainKernels kTrainKernels = {.product_rows = kProductRows,
                                               .product_columns = 16 * kProductPanels,
                                               .product = product,
                                               .column_sums = column_sums,
                                               .pairs = kPairs,
                                               .panel_rows = panel_rows,
                                               .exponentials = exponentials,
                                               .largest = largest,
                                               .dot = dot,
                                               .activate_backward = activate_backward,
                                               .rms_norm_backward = rms_norm_backward,
                                               .layer_norm_backward = layer_norm_backward};

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
