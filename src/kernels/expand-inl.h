// SPDX-License-Identifier: Apache-2.0
// Packed octets to expanded ones, and those to float32 (gemm.h). Compiled once per target; includer defines
// NFLOAT_TARGET_NAMESPACE.
#include "kernels/gemm.h"
#include "kernels/simd/dot.h"

namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE {

static void expand_int8(const uint8_t* packed, int64_t octets, const LevelTables& levels,
                        uint8_t* output) noexcept {
  const ByteLevels table = byte_levels(levels);
  for (int64_t i = 0; i < octets; ++i) {
    const Bytes64 codes = load_bytes(packed + i * kPackedOctetBytes);
    store_bytes(output + i * kInt8OctetBytes, turn_sign(lookup_bytes<0>(codes, table)));
    store_bytes(output + i * kInt8OctetBytes + 64, turn_sign(lookup_bytes<4>(codes, table)));
  }
}

#if defined(NFLOAT_WORD_PRODUCTS)
static void expand_words(const uint8_t* packed, int64_t octets, int64_t octets_per_block,
                         const LevelTables& levels, uint8_t* output) noexcept {
  const ByteLevels table = byte_levels(levels);
  uint8_t* corrections = output + octets * kHalfOctetBytes;
  for (int64_t first = 0; first < octets; first += octets_per_block, corrections += kCorrectionBytes) {
    I32x16 products = splat16(int32_t{0});
    for (int64_t i = 0; i < octets_per_block; ++i, packed += kPackedOctetBytes) {
      const Bytes64 codes = load_bytes(packed);
      const Bytes64 halves[2] = {lookup_bytes<0>(codes, table), lookup_bytes<4>(codes, table)};
      for (const Bytes64& four : halves) {
        const Pairs16 even = even_words(four), odd = odd_words(four);
        store_pairs(output, even);
        store_pairs(output + 64, odd);
        products = dot2(products, even, odd);
        output += kHalfOctetBytes / 2;
      }
    }
    store_integers(corrections, negative(products));
  }
}
#endif

static void expand_bf16(const uint8_t* packed, int64_t octets, const LevelTables& levels,
                        uint8_t* output) noexcept {
  const PairLevels table = pair_levels(levels);
  for (int64_t i = 0; i < octets; ++i, output += kHalfOctetBytes) {
    const Bytes64 codes = load_bytes(packed + i * kPackedOctetBytes);
    store_pairs(output, lookup_pairs<0>(codes, table));
    store_pairs(output + 64, lookup_pairs<4>(codes, table));
    store_pairs(output + 128, lookup_pairs<8>(codes, table));
    store_pairs(output + 192, lookup_pairs<12>(codes, table));
  }
}

static void expand_f32(const uint8_t* packed, int64_t octets, const LevelTables& levels,
                       uint8_t* output) noexcept {
  const FloatLevels table = float_levels(levels);
  for (int64_t i = 0; i < octets; ++i) {
    const Bytes64 codes = load_bytes(packed + i * kPackedOctetBytes);
    float* to = reinterpret_cast<float*>(output + i * kF32OctetBytes);
    store16(to, lookup_floats<0>(codes, table));
    store16(to + 16, lookup_floats<8>(codes, table));
    store16(to + 32, lookup_floats<16>(codes, table));
    store16(to + 48, lookup_floats<24>(codes, table));
    store16(to + 64, lookup_floats<4>(codes, table));
    store16(to + 80, lookup_floats<12>(codes, table));
    store16(to + 96, lookup_floats<20>(codes, table));
    store16(to + 112, lookup_floats<28>(codes, table));
  }
}

static void widen_f16(const uint8_t* halves, int64_t octets, uint8_t* output) noexcept {
  const F16* from = reinterpret_cast<const F16*>(halves);
  float* to = reinterpret_cast<float*>(output);
  for (int64_t i = 0; i < octets * kOctet; ++i) store16(to + 16 * i, load16(from + 16 * i));
}

static void widen_bf16(const uint8_t* halves, int64_t octets, uint8_t* output) noexcept {
  constexpr int kFirst[4] = {0, 4, 1, 5};  // column of the low half of each pair; the high half: two more
  for (int64_t i = 0; i < octets; ++i) {
    float* to = reinterpret_cast<float*>(output + i * kF32OctetBytes);
    for (int pair = 0; pair < 4; ++pair) {
      const Pairs16 both = load_pairs(halves + i * kHalfOctetBytes + 64 * pair);
      store16(to + 16 * kFirst[pair], low_half(both));
      store16(to + 16 * kFirst[pair] + 32, high_half(both));
    }
  }
}

static void widen_int8(const uint8_t* bytes, int64_t octets, uint8_t* output) noexcept {
  for (int64_t i = 0; i < octets; ++i) {
    float* to = reinterpret_cast<float*>(output + i * kF32OctetBytes);
    const uint8_t* from = bytes + i * kInt8OctetBytes;
    for (int k = 0; k < kOctet; ++k)
      for (int r = 0; r < kPanelRows; ++r)
        to[16 * k + r] = static_cast<float>(from[64 * (k / 4) + 4 * r + k % 4] - 128);
  }
}

}  // namespace nfloat::kernels::NFLOAT_TARGET_NAMESPACE
