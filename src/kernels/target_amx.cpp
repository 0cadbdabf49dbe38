// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/gemm.h"
#include "kernels/targets.h"
#include "kernels/tile_config.h"
#include "kernels/tiles.h"

namespace nfloat::kernels {
namespace {

constexpr TileConfig kConfig;
constexpr int64_t kTileSums = kTileSide * kPanelRows;

// The upper halves of two float vectors as pairs (low, high).
inline __m512i upper_halves(__m512 low, __m512 high) noexcept {
  const __m512i below = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
  return _mm512_ternarylogic_epi32(below, _mm512_castps_si512(high),
                                   _mm512_set1_epi32(static_cast<int>(0xffff0000u)), 0xf8);
}

// Cutting a float to bf16 loses half a unit on average: with its scale grown by this, the mean error over
// log-uniform mantissas is none, at half the cost of rounding: 0.175 % root mean square instead of 0.166 %.
constexpr float kCutCorrection = 1.0f + 0x1.666p-9f;

inline __m512 upper_bits(__m512 x) noexcept {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// What upper_bits leaves, exactly. Of an infinity it is no number, and so is every sum with one.
inline __m512 lower_bits(__m512 x) noexcept {
  return _mm512_sub_ps(x, upper_bits(x));
}

// Pairs of weights to their places in all planes.
template <int kPlanes>
inline void put_pairs(__m512 low, __m512 high, uint16_t* output) noexcept {
  _mm512_storeu_si512(output, upper_halves(low, high));
  if constexpr (kPlanes > 1)
    put_pairs<kPlanes - 1>(lower_bits(low), lower_bits(high), output + kTileElements);
}

template <int kPlanes>
void expand(const TileWeights& a, uint16_t* output) noexcept {
  const __m512 levels = _mm512_loadu_ps(a.levels);
  const uint8_t* codes = a.codes;
  const float* scales = a.scales;
  const uint8_t* codes_ahead = a.codes_ahead;
  const float* scales_ahead = a.scales_ahead;
  int64_t end = a.octets_per_group - a.octets_before;  // of the group
  const auto place = [output](int64_t octet) {
    const uint64_t i = static_cast<uint64_t>(octet);
    return output + i / kTileOctets * (kPlanes * kTileElements) + i % kTileOctets * (kTileElements / 4);
  };
  for (int64_t octet = 0; octet < a.octets; end += a.octets_per_group, scales += kPanelRows) {
    _mm_prefetch(reinterpret_cast<const char*>(scales_ahead), _MM_HINT_T1);
    scales_ahead += kPanelRows;
    if (end > a.octets) end = a.octets;
    __m512 scale = _mm512_loadu_ps(scales);
    if constexpr (kPlanes == 1) scale = _mm512_mul_ps(scale, _mm512_set1_ps(kCutCorrection));
    for (; octet < end; ++octet, codes += kPackedOctetBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(codes_ahead), _MM_HINT_T1);
      codes_ahead += kPackedOctetBytes;
      const __m512i c = _mm512_loadu_si512(codes);
      const auto value = [&](__m512i index) {
        return _mm512_mul_ps(_mm512_permutexvar_ps(index, levels), scale);
      };
      uint16_t* to = place(octet);
      put_pairs<kPlanes>(value(c), value(_mm512_srli_epi32(c, 16)), to);
      put_pairs<kPlanes>(value(_mm512_srli_epi32(c, 4)), value(_mm512_srli_epi32(c, 20)), to + 32);
      put_pairs<kPlanes>(value(_mm512_srli_epi32(c, 8)), value(_mm512_srli_epi32(c, 24)), to + 64);
      put_pairs<kPlanes>(value(_mm512_srli_epi32(c, 12)), value(_mm512_srli_epi32(c, 28)), to + 96);
    }
  }
  for (int64_t octet = a.octets; octet % kTileOctets != 0; ++octet)
    for (int i = 0; i < 4; ++i)
      put_pairs<kPlanes>(_mm512_setzero_ps(), _mm512_setzero_ps(), place(octet) + 32 * i);
}

// Words of 32 columns in order to their places: octets of columns 0 2 4 6 1 3 5 7.
alignas(64) constexpr uint16_t kOrder[32] = {0,  2,  4,  6,  1,  3,  5,  7,  8,  10, 12, 14, 9,  11, 13, 15,
                                             16, 18, 20, 22, 17, 19, 21, 23, 24, 26, 28, 30, 25, 27, 29, 31};

template <int kPlanes>
void x_row(const float* x, int64_t k, int64_t steps, uint16_t* output) noexcept {
  const __m512i order = _mm512_load_si512(kOrder);
  for (int64_t step = 0; step < steps; ++step, x += 32, k -= 32) {
    const uint32_t inside = k >= 32 ? ~0u : k <= 0 ? 0u : (1u << k) - 1;
    __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(inside), x);
    __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(inside >> 16), x + 16);
    for (int plane = 0; plane < kPlanes; ++plane, output += kTileElements) {
      __m512i halves;
      if constexpr (kPlanes == 1) {
        const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
        halves = reinterpret_cast<const __m512i&>(rounded);
      } else {
        // A product with one, so that what is no number stays none when it is cut.
        const __m512 one = _mm512_set1_ps(1.0f);
        const __m512i below = _mm512_srli_epi32(_mm512_castps_si512(_mm512_mul_ps(low, one)), 16);
        const __m512i above = _mm512_srli_epi32(_mm512_castps_si512(_mm512_mul_ps(high, one)), 16);
        halves = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(below)),
                                    _mm512_cvtepi32_epi16(above), 1);
        low = lower_bits(low);
        high = lower_bits(high);
      }
      _mm512_storeu_si512(output, _mm512_permutexvar_epi16(order, halves));
    }
  }
}

void store(const TileResult& a) noexcept {
  const __mmask16 inside = static_cast<__mmask16>(a.columns < kPanelRows ? (1u << a.columns) - 1 : 0xffffu);
  const __m512 bias = a.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(inside, a.bias);
  const float* sums = a.sums;
  float* y = a.y;
  for (int64_t row = 0; row < a.m; ++row, y += a.y_stride, sums += kPanelRows)
    _mm512_mask_storeu_ps(y, inside, _mm512_add_ps(_mm512_loadu_ps(sums), bias));
}

// kRows blocks of 16 rows times kPanels panels, one or two each.
template <int kRows, int kPanels>
void block(const TileArgs& a, int64_t first) noexcept {
  const uint16_t* x0 = a.x + first * a.steps * kTileElements;
  const uint16_t* x1 = x0 + a.steps * kTileElements;
  const uint16_t* w0 = a.weights;
  const uint16_t* w1 = w0 + a.weights_stride;
  float* sums0 = a.sums + first * kTileSums;
  float* sums1 = sums0 + a.row_blocks * kTileSums;
  if (a.accumulate) {
    _tile_loadd(0, sums0, kRowBytes);
    if constexpr (kPanels == 2) _tile_loadd(1, sums1, kRowBytes);
    if constexpr (kRows == 2) _tile_loadd(2, sums0 + kTileSums, kRowBytes);
    if constexpr (kRows == 2 && kPanels == 2) _tile_loadd(3, sums1 + kTileSums, kRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t step = 0; step < a.steps; ++step) {
    _tile_loadd(4, x0, kRowBytes);
    _tile_loadd(6, w0, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels == 2) {
      _tile_loadd(7, w1, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kRows == 2) {
      _tile_loadd(5, x1, kRowBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kPanels == 2) _tile_dpbf16ps(3, 5, 7);
    }
    x0 += kTileElements;
    x1 += kTileElements;
    w0 += kTileElements;
    w1 += kTileElements;
  }
  _tile_stored(0, sums0, kRowBytes);
  if constexpr (kPanels == 2) _tile_stored(1, sums1, kRowBytes);
  if constexpr (kRows == 2) _tile_stored(2, sums0 + kTileSums, kRowBytes);
  if constexpr (kRows == 2 && kPanels == 2) _tile_stored(3, sums1 + kTileSums, kRowBytes);
}

// One block of 16 rows times one or two panels, three planes each. The product of the high bits has tiles of
// its own: added to it, the five small ones would cost it as many roundings.
template <int kPanels>
void exact_block(const TileArgs& a, int64_t row_block) noexcept {
  constexpr int64_t kStep = 3 * kTileElements, kMiddle = kTileElements, kLow = 2 * kTileElements;
  const uint16_t* x = a.x + row_block * a.steps * kStep;
  const uint16_t* w0 = a.weights;
  const uint16_t* w1 = w0 + a.weights_stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < a.steps; ++step, x += kStep, w0 += kStep, w1 += kStep) {
    _tile_loadd(4, x, kRowBytes);
    _tile_loadd(6, w0 + kLow, kRowBytes);
    _tile_dpbf16ps(2, 4, 6);
    if constexpr (kPanels == 2) {
      _tile_loadd(7, w1 + kLow, kRowBytes);
      _tile_dpbf16ps(3, 4, 7);
    }
    _tile_loadd(6, w0 + kMiddle, kRowBytes);
    _tile_dpbf16ps(2, 4, 6);
    if constexpr (kPanels == 2) {
      _tile_loadd(7, w1 + kMiddle, kRowBytes);
      _tile_dpbf16ps(3, 4, 7);
    }
    _tile_loadd(5, x + kMiddle, kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels == 2) _tile_dpbf16ps(3, 5, 7);
    _tile_loadd(6, w0, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kPanels == 2) {
      _tile_loadd(7, w1, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels == 2) _tile_dpbf16ps(3, 5, 7);
    _tile_loadd(5, x + kLow, kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kPanels == 2) _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float parts[4][kTileSums];
  _tile_stored(0, parts[0], kRowBytes);
  _tile_stored(1, parts[1], kRowBytes);
  _tile_stored(2, parts[2], kRowBytes);
  _tile_stored(3, parts[3], kRowBytes);
  for (int p = 0; p < kPanels; ++p) {
    float* sums = a.sums + (p * a.row_blocks + row_block) * kTileSums;
    for (int64_t i = 0; i < kTileSums; i += kPanelRows) {
      __m512 sum = _mm512_add_ps(_mm512_load_ps(parts[p] + i), _mm512_load_ps(parts[p + 2] + i));
      if (a.accumulate) sum = _mm512_add_ps(sum, _mm512_loadu_ps(sums + i));
      _mm512_storeu_ps(sums + i, sum);
    }
  }
}

template <int kPlanes, int kPanels>
void all_rows(const TileArgs& a) noexcept {
  int64_t first = 0;
  if constexpr (kPlanes == 3) {
    for (; first < a.row_blocks; ++first) exact_block<kPanels>(a, first);
  } else {
    for (; first + 1 < a.row_blocks; first += 2) block<2, kPanels>(a, first);
    if (first < a.row_blocks) block<1, kPanels>(a, first);
  }
}

template <int kPlanes>
void multiply(const TileArgs& a) noexcept {
  __asm__ volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
  _tile_loadconfig(&kConfig);
  if (a.panels == 2) {
    all_rows<kPlanes, 2>(a);
  } else {
    all_rows<kPlanes, 1>(a);
  }
  _tile_release();
}

template <int kPlanes>
constexpr TileKernels kernels(int64_t run_steps) noexcept {
  return {.planes = kPlanes,
          .run_steps = run_steps,
          .expand = expand<kPlanes>,
          .x_row = x_row<kPlanes>,
          .multiply = multiply<kPlanes>,
          .store = store};
}

}  // namespace

// Two panels of a run, 16 and 24 KiB, stay in the first cache while all rows pass: runs of twice the steps
// cost a fifth more, of half of them, that reload the sums twice as often, a tenth.
const TileKernels kAmxTiles = kernels<1>(8);
const TileKernels kAmxExactTiles = kernels<3>(4);

}  // namespace nfloat::kernels
