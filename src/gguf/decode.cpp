// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bit>
#include <cstring>

#include "base/fail.h"
#include "base/float16.h"
#include "gguf/tables.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

constexpr int kHalf = 16;  // a block of 32 holds element i in the low and i + 16 in the high nibble of byte i

float half_at(const uint8_t* bytes) noexcept {
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return f16_to_float(bits);
}

// Of a byte's two bits at 2 * (`place` % 4), and so on: small fields, cut out.
int bits(int byte, int place, int count) noexcept {
  return (byte >> place) & ((1 << count) - 1);
}

// E8M0: a power of two, here halved because the table below holds twice the values of E2M1.
float half_power(uint8_t exponent) noexcept {
  if (exponent < 2) return std::bit_cast<float>(uint32_t{0x00200000} << exponent);  // subnormal
  return std::bit_cast<float>(uint32_t{exponent - 1u} << 23);
}

void table_values(const uint8_t* codes, const float* levels, float scale, float* y) noexcept {
  for (int i = 0; i < kHalf; ++i) {
    y[i] = scale * levels[codes[i] & 15];
    y[i + kHalf] = scale * levels[codes[i] >> 4];
  }
}

void q4_0(const uint8_t* b, float* y) noexcept {
  table_values(b + 2, kQ40Levels.data(), half_at(b), y);
}
void iq4_nl(const uint8_t* b, float* y) noexcept {
  table_values(b + 2, kIq4NlLevels.data(), half_at(b), y);
}
void mxfp4(const uint8_t* b, float* y) noexcept {
  table_values(b + 1, kMxfp4Levels.data(), half_power(b[0]), y);
}

// scale * code + minimum, two float16 before the codes.
void q4_1(const uint8_t* b, float* y) noexcept {
  const float scale = half_at(b), minimum = half_at(b + 2);
  for (int i = 0; i < kHalf; ++i) {
    y[i] = static_cast<float>(b[4 + i] & 15) * scale + minimum;
    y[i + kHalf] = static_cast<float>(b[4 + i] >> 4) * scale + minimum;
  }
}

// The fifth bits of 32 elements in one word.
int five_bits(const uint8_t* high, const uint8_t* low, int element) noexcept {
  const int nibble = element < kHalf ? low[element] & 15 : low[element - kHalf] >> 4;
  return nibble | bits(high[element / 8], element % 8, 1) << 4;
}

void q5_0(const uint8_t* b, float* y) noexcept {
  const float scale = half_at(b);
  for (int i = 0; i < 2 * kHalf; ++i) y[i] = static_cast<float>(five_bits(b + 2, b + 6, i) - 16) * scale;
}

void q5_1(const uint8_t* b, float* y) noexcept {
  const float scale = half_at(b), minimum = half_at(b + 2);
  for (int i = 0; i < 2 * kHalf; ++i) y[i] = static_cast<float>(five_bits(b + 4, b + 8, i)) * scale + minimum;
}

void q8_0(const uint8_t* b, float* y) noexcept {
  const float scale = half_at(b);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * scale;
}

// Super-blocks of 256. Two-bit codes lie four to a byte: of each 128 elements, element 32 * s + i has bits
// 2 * s of byte i.
int two_bits(const uint8_t* codes, int element) noexcept {
  return bits(codes[element / 128 * 32 + element % 32], element % 128 / 32 * 2, 2);
}

// 16 blocks of 16: nibbles of scale and minimum; codes; the two factors.
void q2_k(const uint8_t* b, float* y) noexcept {
  const float d = half_at(b + 80), least = half_at(b + 82);
  for (int block = 0; block < 16; ++block) {
    const float scale = d * static_cast<float>(b[block] & 15);
    const float minimum = least * static_cast<float>(b[block] >> 4);
    for (int i = block * 16; i < block * 16 + 16; ++i)
      y[i] = scale * static_cast<float>(two_bits(b + 16, i)) - minimum;
  }
}

// 16 blocks of 16: third bits, two-bit codes, 6-bit scales less 32 (four bits, then two bits), the factor.
void q3_k(const uint8_t* b, float* y) noexcept {
  const uint8_t *high = b, *codes = b + 32, *scales = b + 96;
  const float d = half_at(b + 108);
  for (int block = 0; block < 16; ++block) {
    const int low = bits(scales[block % 8], block / 8 * 4, 4);
    const int code = low | bits(scales[8 + block % 4], block / 4 * 2, 2) << 4;
    const float scale = d * static_cast<float>(code - 32);
    for (int i = block * 16; i < block * 16 + 16; ++i) {
      const int third = bits(high[i % 32], i / 32, 1);
      y[i] = scale * static_cast<float>(two_bits(codes, i) - (third != 0 ? 0 : 4));
    }
  }
}

struct ScaleAndMinimum {
  float scale, minimum;
};

// Block `j` of eight, 6 bits each: the first four whole in bytes 0-3 and 4-7, the others with their low four
// bits in bytes 8-11 and their high two on top of the first four.
ScaleAndMinimum six_bit_pair(const uint8_t* s, int j) noexcept {
  if (j < 4) return {static_cast<float>(s[j] & 63), static_cast<float>(s[j + 4] & 63)};
  return {static_cast<float>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4),
          static_cast<float>((s[j + 4] >> 4) | (s[j] >> 6) << 4)};
}

// Nibbles of 256 elements: of each 64, the first 32 are low and the others high.
int nibble(const uint8_t* codes, int element) noexcept {
  return bits(codes[element / 64 * 32 + element % 32], element % 64 / 32 * 4, 4);
}

void k_blocks(const uint8_t* b, const uint8_t* high, const uint8_t* codes, float* y) noexcept {
  const float d = half_at(b), least = half_at(b + 2);
  for (int block = 0; block < 8; ++block) {
    const ScaleAndMinimum six = six_bit_pair(b + 4, block);
    const float scale = d * six.scale, minimum = least * six.minimum;
    for (int i = block * 32; i < block * 32 + 32; ++i) {
      const int fifth = high != nullptr ? bits(high[i % 32], block, 1) << 4 : 0;
      y[i] = scale * static_cast<float>(nibble(codes, i) | fifth) - minimum;
    }
  }
}

void q4_k(const uint8_t* b, float* y) noexcept {
  k_blocks(b, nullptr, b + 16, y);
}
void q5_k(const uint8_t* b, float* y) noexcept {
  k_blocks(b, b + 16, b + 48, y);
}

// 16 blocks of 16 with int8 scales: low nibbles, high pairs of bits, scales, the factor.
void q6_k(const uint8_t* b, float* y) noexcept {
  const uint8_t *low = b, *high = b + 128;
  const float d = half_at(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 128, within = i % 128;
    const int code = bits(low[part * 64 + within % 64], within / 64 * 4, 4) |
                     bits(high[part * 32 + within % 32], within / 32 * 2, 2) << 4;
    const float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + i / 16]));
    y[i] = scale * static_cast<float>(code - 32);
  }
}

// 8 blocks of 32 with 6-bit scales less 32: high pairs of bits in a word, low nibbles in four bytes.
float iq4_xs_scale(const uint8_t* b, int block) noexcept {
  const int code = bits(b[4 + block / 2], block % 2 * 4, 4) | bits(b[2 + block / 4], block % 4 * 2, 2) << 4;
  return half_at(b) * static_cast<float>(code - 32);
}

void iq4_xs(const uint8_t* b, float* y) noexcept {
  for (int block = 0; block < 8; ++block)
    table_values(b + 8 + block * kHalf, kIq4NlLevels.data(), iq4_xs_scale(b, block), y + block * 32);
}

using BlockDecoder = void (*)(const uint8_t*, float*) noexcept;

BlockDecoder decoder_of(GgufType type) noexcept {
  switch (type) {
    case GgufType::kQ4_0:
      return q4_0;
    case GgufType::kQ4_1:
      return q4_1;
    case GgufType::kQ5_0:
      return q5_0;
    case GgufType::kQ5_1:
      return q5_1;
    case GgufType::kQ8_0:
      return q8_0;
    case GgufType::kQ2_K:
      return q2_k;
    case GgufType::kQ3_K:
      return q3_k;
    case GgufType::kQ4_K:
      return q4_k;
    case GgufType::kQ5_K:
      return q5_k;
    case GgufType::kQ6_K:
      return q6_k;
    case GgufType::kIQ4_NL:
      return iq4_nl;
    case GgufType::kIQ4_XS:
      return iq4_xs;
    case GgufType::kMXFP4:
      return mxfp4;
    default:
      return nullptr;
  }
}

}  // namespace

void decode_gguf(GgufType type, std::span<const std::byte> blocks, std::span<float> output) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const auto block_bytes = static_cast<size_t>(info.block_bytes);
  const auto block_elements = static_cast<size_t>(info.block_elements);
  if (blocks.size() % block_bytes != 0 || blocks.size() / block_bytes * block_elements != output.size())
    fail(ErrorCode::kInvalidArgument, "decoding {}: {} bytes found for {} elements", info.name, blocks.size(),
         output.size());
  if (const DType* plain = plain_dtype(type)) {
    convert_elements({*plain, Shape({static_cast<int64_t>(output.size())}), blocks}, DType::kF32,
                     std::as_writable_bytes(output));
    return;
  }
  const BlockDecoder decode = decoder_of(type);
  if (decode == nullptr)
    fail(ErrorCode::kInvalidArgument, "decoding {}: not a type of floating-point values", info.name);
  const auto* from = reinterpret_cast<const uint8_t*>(blocks.data());
  for (size_t at = 0; at < output.size(); at += block_elements, from += block_bytes)
    decode(from, output.data() + at);
}

const DType* plain_dtype(GgufType type) noexcept {
  static constexpr DType kF64 = DType::kF64, kF32 = DType::kF32, kF16 = DType::kF16, kBF16 = DType::kBF16;
  switch (type) {
    case GgufType::kF64:
      return &kF64;
    case GgufType::kF32:
      return &kF32;
    case GgufType::kF16:
      return &kF16;
    case GgufType::kBF16:
      return &kBF16;
    default:
      return nullptr;
  }
}

std::span<const float> gguf_levels(GgufType type) noexcept {
  if (type == GgufType::kQ4_0) return kQ40Levels;
  if (type == GgufType::kIQ4_NL || type == GgufType::kIQ4_XS) return kIq4NlLevels;
  if (type == GgufType::kMXFP4) return kMxfp4Levels;
  return {};
}

GgufCodes gguf_codes(GgufType type, const std::byte* row, int64_t block) noexcept {
  const GgufTypeInfo& info = gguf_type_info(type);
  const int64_t within = info.block_elements / (2 * kHalf);
  const std::byte* stored = row + block / within * info.block_bytes;
  const auto* bytes = reinterpret_cast<const uint8_t*>(stored);
  const auto place = static_cast<int>(block % within);
  // The codes are what ends a block, after its scales.
  const std::byte* codes = stored + info.block_bytes - (within - place) * kHalf;
  const float scale = type == GgufType::kMXFP4    ? half_power(bytes[0])
                      : type == GgufType::kIQ4_XS ? iq4_xs_scale(bytes, place)
                                                  : half_at(bytes);
  return {scale, codes};
}

}  // namespace nfloat
