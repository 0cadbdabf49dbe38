// SPDX-License-Identifier: Apache-2.0
#include "gguf/super_block.h"

#include <cstring>

namespace nfloat {
namespace {

void put_half_bits(uint8_t* to, uint16_t bits) noexcept {
  std::memcpy(to, &bits, sizeof bits);
}

// Both factors, then eight pairs of 6 bits: the first four whole in bytes 0-3 and 4-7, the others with
// their low nibbles in bytes 8-11 and their high two bits on top of the first four.
void put_scales_and_minima(const SuperBlock& block, uint8_t* bytes) noexcept {
  put_half_bits(bytes, block.scale);
  put_half_bits(bytes + 2, block.minimum);
  uint8_t* six = bytes + 4;
  for (int b = 0; b < 4; ++b) {
    const int scale = block.scales[b], high_scale = block.scales[b + 4];
    const int minimum = block.minima[b], high_minimum = block.minima[b + 4];
    six[b] = static_cast<uint8_t>(scale | high_scale >> 4 << 6);
    six[b + 4] = static_cast<uint8_t>(minimum | high_minimum >> 4 << 6);
    six[b + 8] = static_cast<uint8_t>((high_scale & 15) | (high_minimum & 15) << 4);
  }
}

// Of each 64 elements, the first 32 are low nibbles and the others high.
void put_nibbles(const uint8_t* codes, uint8_t* to) noexcept {
  for (int i = 0; i < kSuperBlock / 2; ++i) {
    const int low = i / 32 * 64 + i % 32;
    to[i] = static_cast<uint8_t>((codes[low] & 15) | (codes[low + 32] & 15) << 4);
  }
}

void put_q5_k(const SuperBlock& block, uint8_t* bytes) noexcept {
  put_scales_and_minima(block, bytes);
  uint8_t* high = bytes + 16;  // bit b of byte i: the fifth of element 32 * b + i
  for (int i = 0; i < 32; ++i) {
    high[i] = 0;
    for (int b = 0; b < 8; ++b) high[i] = static_cast<uint8_t>(high[i] | (block.codes[b * 32 + i] >> 4) << b);
  }
  put_nibbles(block.codes, bytes + 48);
}

void put_q6_k(const SuperBlock& block, uint8_t* bytes) noexcept {
  uint8_t *low = bytes, *high = bytes + 128;
  std::memset(bytes, 0, 192);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int part = i / 128, place = i % 128;
    uint8_t& nibbles = low[part * 64 + place % 64];
    uint8_t& pairs = high[part * 32 + place % 32];
    nibbles = static_cast<uint8_t>(nibbles | (block.codes[i] & 15) << place / 64 * 4);
    pairs = static_cast<uint8_t>(pairs | (block.codes[i] >> 4) << place / 32 * 2);
  }
  for (int b = 0; b < 16; ++b) bytes[192 + b] = static_cast<uint8_t>(block.scales[b]);
  put_half_bits(bytes + 208, block.scale);
}

void put_iq4_xs(const SuperBlock& block, uint8_t* bytes) noexcept {
  put_half_bits(bytes, block.scale);
  std::memset(bytes + 2, 0, 6);
  for (int b = 0; b < 8; ++b) {
    const int six = block.scales[b] + 32;
    bytes[4 + b / 2] = static_cast<uint8_t>(bytes[4 + b / 2] | (six & 15) << b % 2 * 4);
    bytes[2 + b / 4] = static_cast<uint8_t>(bytes[2 + b / 4] | (six >> 4) << b % 4 * 2);
    for (int i = 0; i < 16; ++i)
      bytes[8 + b * 16 + i] =
          static_cast<uint8_t>(block.codes[b * 32 + i] | block.codes[b * 32 + 16 + i] << 4);
  }
}

}  // namespace

void put_super_block(GgufType type, const SuperBlock& block, uint8_t* bytes) noexcept {
  switch (type) {
    case GgufType::kQ4_K:
      put_scales_and_minima(block, bytes);
      return put_nibbles(block.codes, bytes + 16);
    case GgufType::kQ5_K:
      return put_q5_k(block, bytes);
    case GgufType::kQ6_K:
      return put_q6_k(block, bytes);
    default:
      return put_iq4_xs(block, bytes);
  }
}

}  // namespace nfloat
