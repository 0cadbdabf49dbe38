// SPDX-License-Identifier: Apache-2.0
// What gemm-inl.h needs beyond wide.h. 64 bytes of packed codes hold 16 rows of 8 columns (gemm.h); each
// header below defines
//   kTilePanels, kTileRows, kDenseRows, kDenseBf16Rows: the accumulators that fit this target's registers, in
//   panels and activation rows: packed weights are one panel by kTileRows, expanded ones kTilePanels by
//   kDenseRows, of bf16 by kDenseBf16Rows, all of them twice (a group's sums and the tile's)
//   kMultipliesBf16: dot2 on bf16 pairs is one instruction
//   Bytes64, Pairs16: 64 bytes; 16 pairs of bf16; load_*, store_* at any alignment; stream_bytes(to, x): past
//   the caches, to a multiple of 64, visible to others after stream_fence()
//   byte_levels, pair_levels, float_levels (LevelTables): look-up tables
//   lookup_bytes<shift>: 64 levels in bytes, of the nibbles at bit 0 or 4 of each byte
//   lookup_pairs<shift>, lookup_floats<shift>: of the nibbles at that bit of each 16 or 32-bit word
//   kSignedBytes: dot4 takes weights of -127..127, as byte_levels are then; otherwise of 1..255, 128 added
//   turn_sign(bytes): weights as gemm.h stores them (128 added) to those of dot4, and back
//   dot4(sum, w, x): sum + w . x[0..3], exact for x of -127..127
//   dot2(sum, w, x): sum + w . x[0..1] on bf16 pairs
//   NFLOAT_LANE_PRODUCTS, where an activation is taken out of a register that holds more of its row; with it
//   dot4_of, dot2_of (below)
//   NFLOAT_OWN_ORDER, where expanded weights have an order of the target's own; with it
//   own_octet<half>(from): 64 bytes for dot4 of an octet in that order
//   store_own_octet(to, low, high): the octet's bytes in that order from those in the order of gemm.h
//   NFLOAT_PAIR_PRODUCTS, where two rows of weights are multiplied by two of activations (own orders then);
//   with it
//   RowPairs: rows 2 i and 2 i + 1 of a panel, eight columns in bytes or four in bf16
//   zip_pairs(low, high): RowPairs from two halves of 4 columns in bytes, or of 2 in bf16
//   load_row_pairs(from), store_row_pairs(to, pairs)
//   pair_offsets(even, odd, x, y): sums before a block's first octet, x of one row of activations, y of the
//   other
//   pair_dot8(even, odd, w, x): adds the products of the rows at x and x + 8; pair_dot4<half> those of bf16,
//   columns 4 half to 4 half + 3
//   settle_pairs(even, odd): sums of two rows in the order of the instruction to those of each row
//   NFLOAT_WORD_PRODUCTS, where words are multiplied faster than bytes; with it
//   even_words(bytes), odd_words(bytes): one of each two signed bytes, widened
//   broadcast_words(x): x[0] x[1] in every 32 bits; add(x, y) of words; dot2(sum, x, y): sum + x . y of each
//   two words, exact
//   load_integers, store_integers: 16 of 32 bits, any alignment; negative(x)
//   zip_low_words(a, b), zip_high_words: 32-bit words a[0] b[0] a[1] b[1] ... of the first, second halves
//   pack_nibbles: of each word, eight columns as a file has them to their places in a panel
//   order_pairs: of each 8 words of 16 bits, 0 1 2 3 4 5 6 7 to 0 2 4 6 1 3 5 7
//   part_halves: of 32 words of 16 bits, the even ones, then the odd ones
//   part_bytes: of 16 times four bytes, all the first ones, then all the second ones, ...
//   fma16(a, b, sum), to_float16; low_half, high_half: a member of each pair in float32
//   prefetch, prefetch_far
//   map_scales(map, codes, groups, output): up to kMapGroups times 16 values of a map, that many being looked
//   up together where it is cheaper
//   gather_shifted(from, first, g, shift): from[(first[i] + g) >> shift]
#ifndef NFLOAT_KERNELS_SIMD_DOT_H_
#define NFLOAT_KERNELS_SIMD_DOT_H_

#include "kernels/simd/wide.h"

#if defined(__AVX512F__)
#include "kernels/simd/dot_avx512.h"
#elif defined(__AVX2__)
#include "kernels/simd/dot_avx2.h"
#elif defined(__aarch64__) && !defined(NFLOAT_PLAIN_VOCABULARY)
#include "kernels/simd/dot_neon.h"
#else
#include "kernels/simd/dot_scalar.h"
#endif

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

#if !defined(NFLOAT_LANE_PRODUCTS)
// dot4 with columns 4 half to 4 half + 3 of the octet at x, dot2 with pair number `pair` of it.
template <int kHalf>
static inline I32x16 dot4_of(const I32x16& sum, const Bytes64& w, const int8_t* x) noexcept {
  return dot4(sum, w, x + 4 * kHalf);
}
template <int kPair>
static inline F32x16 dot2_of(const F32x16& sum, const Pairs16& w, const uint16_t* x) noexcept {
  return dot2(sum, w, x + 2 * kPair);
}
#endif

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE

#endif  // NFLOAT_KERNELS_SIMD_DOT_H_
