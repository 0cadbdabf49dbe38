// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "kernels/gemm.h"
#include "kernels/targets.h"
#include "kernels/tile_config.h"
#include "kernels/tiles.h"

namespace nfloat::kernels {
namespace {

constexpr TileConfig kConfig;
constexpr TileConfig kHalfConfig = {.rows = {8, 8, 8, 8, 8, 8, 16, 16}};  // of the activations and the sums

constexpr int64_t kBlockOctets = kByteBlock / kOctet;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kRunBlocks = 8;  // of expanded weights, 8 KiB: the first cache keeps them for all rows
// As far ahead as gemm-inl.h asks: one of the two alone leaves a quarter of the bandwidth.
constexpr int kPrefetchBytes = 3072, kFarPrefetchBytes = 6144;

// Octets to tiles of signed levels: 64 columns of a panel, four columns of each of its 16 rows side by side.
void expand(const uint8_t* codes, int64_t octets, __m512i levels, uint8_t* output) noexcept {
  for (int64_t i = 0; i < octets; ++i, codes += kPackedOctetBytes, output += kInt8OctetBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(codes + kFarPrefetchBytes), _MM_HINT_T1);
    const __m512i c = _mm512_loadu_si512(codes);
    _mm512_store_si512(output, _mm512_permutexvar_epi8(c, levels));
    _mm512_store_si512(output + 64, _mm512_permutexvar_epi8(_mm512_srli_epi16(c, 4), levels));
  }
}

// A run of blocks times kRows rows, added to their sums.
template <int kRows>
void rows_of_run(const ByteTileArgs& a, int64_t row, int64_t first, int64_t count,
                 const uint8_t* weights) noexcept {
  __m512 totals[kRows];
  float* sums = a.sums + row * kPanelRows;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    totals[r] = first == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * kPanelRows);
  const int8_t* x = a.x + row * a.x_blocks * kByteBlock + first * kTileBytes;
  const float* x_scales = a.x_scales + first * a.x_rows + row;
  alignas(64) int32_t products[2][kTileSide * kPanelRows];
  const auto add = [&](int64_t block) {
    const __m512 scale = _mm512_loadu_ps(a.scales + (first + block) / a.blocks_per_group * kPanelRows);
    const float* x_scale = x_scales + block * a.x_rows;
    const int32_t* product = products[block & 1];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
      totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(product + r * kPanelRows)),
                                  _mm512_mul_ps(scale, _mm512_set1_ps(x_scale[r])), totals[r]);
  };
  for (int64_t block = 0; block < count; ++block) {
    _tile_loadd(4, x + block * kTileBytes, kRowBytes);
    _tile_loadd(6, weights + block * kTileBytes, kRowBytes);
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, products[block & 1], kRowBytes);
    if (block > 0) add(block - 1);  // while the tiles of this one are on their way
  }
  add(count - 1);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) _mm512_storeu_ps(sums + r * kPanelRows, totals[r]);
}

void store(const ByteTileArgs& a) noexcept {
  const __mmask16 inside = static_cast<__mmask16>(a.columns < kPanelRows ? (1u << a.columns) - 1 : 0xffffu);
  const __m512 bias = a.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(inside, a.bias);
  const __m512 factor = _mm512_set1_ps(a.levels->u8_scale);
  for (int64_t row = 0; row < a.m; ++row) {
    float* const y = a.y + row * a.y_stride;
    const __m512 sums = _mm512_loadu_ps(a.sums + row * kPanelRows);
    const __m512 old = a.accumulate ? _mm512_maskz_loadu_ps(inside, y) : bias;
    if (a.columns >= kPanelRows) {
      _mm512_storeu_ps(y, _mm512_fmadd_ps(sums, factor, old));
    } else {  // rounded twice, as store_tile() does it
      _mm512_mask_storeu_ps(y, inside, _mm512_add_ps(_mm512_mul_ps(sums, factor), old));
    }
  }
}

void multiply(const ByteTileArgs& a) noexcept {
  const __m512i levels =
      _mm512_xor_si512(_mm512_load_si512(a.levels->u8), _mm512_set1_epi8(static_cast<char>(-128)));
  alignas(64) uint8_t weights[kRunBlocks * kTileBytes];
  if (a.m <= kTileSide / 2) {
    _tile_loadconfig(&kHalfConfig);
  } else {
    _tile_loadconfig(&kConfig);
  }
  for (int64_t first = 0; first < a.blocks; first += kRunBlocks) {
    const int64_t count = a.blocks - first < kRunBlocks ? a.blocks - first : kRunBlocks;
    expand(a.codes + first * kBlockOctets * kPackedOctetBytes, count * kBlockOctets, levels, weights);
    __asm__ volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
    if (a.m <= kTileSide / 2) {
      rows_of_run<kTileSide / 2>(a, 0, first, count, weights);
    } else {
      for (int64_t row = 0; row < a.m; row += kTileSide)
        rows_of_run<kTileSide>(a, row, first, count, weights);
    }
  }
  _tile_release();
  store(a);
}

// Rounds half away from zero; NaN in the block is its scale. Of a block of which nothing has a finite
// inverse, and of infinities, the conversion makes zeros.
float x_block(const float* x, int8_t* output) noexcept {
  __m512 values[4];
  __m512 largest = _mm512_setzero_ps();
  uint32_t not_numbers = 0;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    values[i] = _mm512_loadu_ps(x + 16 * i);
    not_numbers |= _mm512_cmp_ps_mask(values[i], values[i], _CMP_UNORD_Q);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(values[i]));
  }
  const float most = _mm512_reduce_max_ps(largest);
  const __m512 inverse = _mm512_set1_ps(most >= kSmallestMost ? 127.0f / most : 0.0f);
  const __m512 half = _mm512_set1_ps(0.5f), sign = _mm512_set1_ps(-0.0f);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 scaled = _mm512_mul_ps(values[i], inverse);
    const __m512 rounding = _mm512_or_ps(half, _mm512_and_ps(scaled, sign));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(output + 16 * i),
                     _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(_mm512_add_ps(scaled, rounding))));
  }
  return not_numbers != 0 ? __builtin_nanf("") : most / 127.0f;
}

}  // namespace

const ByteTileKernels kAmxByteTiles = {.x_block = x_block, .multiply = multiply};

}  // namespace nfloat::kernels
