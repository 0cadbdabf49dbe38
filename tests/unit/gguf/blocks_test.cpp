// SPDX-License-Identifier: Apache-2.0
// Blocks small enough to be worked out by hand from the formats' definitions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "nfloat/error.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

constexpr uint8_t kOne[2] = {0x00, 0x3c}, kHalf[2] = {0x00, 0x38}, kTwo[2] = {0x00, 0x40};

std::vector<float> decode(GgufType type, const std::vector<uint8_t>& bytes) {
  const GgufTypeInfo& info = gguf_type_info(type);
  EXPECT_EQ(bytes.size(), static_cast<size_t>(info.block_bytes)) << info.name;
  std::vector<float> values(static_cast<size_t>(info.block_elements));
  decode_gguf(type, std::as_bytes(std::span(bytes)), values);
  return values;
}

std::vector<uint8_t> block(GgufType type) {
  return std::vector<uint8_t>(static_cast<size_t>(gguf_type_info(type).block_bytes));
}

void put(std::vector<uint8_t>& bytes, size_t at, const uint8_t (&half)[2]) {
  bytes[at] = half[0];
  bytes[at + 1] = half[1];
}

TEST(GgufBlocks, FourBits) {
  std::vector<uint8_t> b = block(GgufType::kQ4_0);
  put(b, 0, kHalf);
  b[2] = 0xf1;  // element 0: 1 - 8, element 16: 15 - 8
  auto y = decode(GgufType::kQ4_0, b);
  EXPECT_EQ(y[0], -3.5f);
  EXPECT_EQ(y[16], 3.5f);
  EXPECT_EQ(y[1], -4.0f);
  y = decode(GgufType::kIQ4_NL, b);
  EXPECT_EQ(y[0], -52.0f);
  EXPECT_EQ(y[16], 56.5f);
  EXPECT_EQ(y[31], -63.5f);

  b = block(GgufType::kQ4_1);
  put(b, 0, kHalf);
  put(b, 2, kTwo);
  b[4 + 15] = 0xa3;
  y = decode(GgufType::kQ4_1, b);
  EXPECT_EQ(y[15], 3.5f);
  EXPECT_EQ(y[31], 7.0f);
  EXPECT_EQ(y[0], 2.0f);

  b = block(GgufType::kMXFP4);
  b[0] = 128;  // 2^1
  b[1] = 0x7f;
  b[2] = 0x21;
  y = decode(GgufType::kMXFP4, b);
  EXPECT_EQ(y[0], -12.0f);  // code 15: -6
  EXPECT_EQ(y[16], 12.0f);
  EXPECT_EQ(y[1], 1.0f);  // code 1: 0.5
  EXPECT_EQ(y[17], 2.0f);
  b[0] = 0;  // 2^-127
  EXPECT_EQ(decode(GgufType::kMXFP4, b)[16], std::ldexp(6.0f, -127));
}

TEST(GgufBlocks, FiveAndEightBits) {
  std::vector<uint8_t> b = block(GgufType::kQ5_0);
  put(b, 0, kOne);
  b[2] = 0x01;       // fifth bit of element 0
  b[5] = 0x80;       // and of element 31
  b[6] = 0x02;       // element 0: 16 + 2 - 16
  b[6 + 15] = 0xf0;  // element 31: 16 + 15 - 16
  auto y = decode(GgufType::kQ5_0, b);
  EXPECT_EQ(y[0], 2.0f);
  EXPECT_EQ(y[31], 15.0f);
  EXPECT_EQ(y[1], -16.0f);

  b = block(GgufType::kQ5_1);
  put(b, 0, kOne);
  put(b, 2, kHalf);
  b[4] = 0x02;
  b[8 + 1] = 0x04;
  y = decode(GgufType::kQ5_1, b);
  EXPECT_EQ(y[1], 20.5f);
  EXPECT_EQ(y[0], 0.5f);

  b = block(GgufType::kQ8_0);
  put(b, 0, kHalf);
  b[2] = 0x80;
  b[33] = 0x7f;
  y = decode(GgufType::kQ8_0, b);
  EXPECT_EQ(y[0], -64.0f);
  EXPECT_EQ(y[31], 63.5f);
}

TEST(GgufBlocks, SuperBlocks) {
  std::vector<uint8_t> b = block(GgufType::kQ2_K);
  b[0] = 0x53;        // block 0: scale 3, minimum 5
  b[15] = 0x21;       // block 15: scale 1, minimum 2
  b[16] = 0x02;       // element 0
  b[16 + 63] = 0xc0;  // element 255
  put(b, 80, kHalf);
  put(b, 82, kTwo);
  auto y = decode(GgufType::kQ2_K, b);
  EXPECT_EQ(y[0], 1.5f * 2 - 10);
  EXPECT_EQ(y[1], -10.0f);
  EXPECT_EQ(y[255], 0.5f * 3 - 4);

  b = block(GgufType::kQ3_K);
  b[0] = 0x01;       // element 0 has its third bit, the others are 4 lower
  b[32] = 0x03;      // element 0
  b[96] = 0x05;      // block 0: low four bits of the scale
  b[96 + 8] = 0x02;  // and the high two: 37 - 32
  put(b, 108, kHalf);
  y = decode(GgufType::kQ3_K, b);
  EXPECT_EQ(y[0], 2.5f * 3);
  EXPECT_EQ(y[1], 2.5f * -4);
  EXPECT_EQ(y[255], 0.5f * -32 * -4);

  b = block(GgufType::kQ4_K);
  put(b, 0, kHalf);
  put(b, 2, kOne);
  b[4 + 0] = 63;       // block 0: scale; its top bits are zero
  b[4 + 4] = 9;        // block 0: minimum
  b[4 + 3] = 0x80;     // block 7: scale's high bits: 2
  b[4 + 11] = 0x31;    // low bits of scale: 1, of minimum: 3
  b[4 + 7] = 0x40;     // minimum's high bits: 1
  b[16] = 0x07;        // element 0
  b[16 + 127] = 0xe0;  // element 255
  y = decode(GgufType::kQ4_K, b);
  EXPECT_EQ(y[0], 31.5f * 7 - 9);
  EXPECT_EQ(y[255], 16.5f * 14 - 19);

  b = block(GgufType::kQ5_K);
  put(b, 0, kHalf);
  put(b, 2, kOne);
  b[4] = 2;
  b[16] = 0x01;  // fifth bit of element 0
  b[48] = 0x03;
  y = decode(GgufType::kQ5_K, b);
  EXPECT_EQ(y[0], 19.0f);
  EXPECT_EQ(y[1], 0.0f);

  b = block(GgufType::kQ6_K);
  put(b, 208, kHalf);
  b[192] = 0xff;  // block 0: -1
  b[192 + 15] = 3;
  b[0] = 0x05;
  b[128] = 0x03;  // element 0: 5 + 48 - 32
  b[127] = 0x10;  // element 255: 1 - 32
  y = decode(GgufType::kQ6_K, b);
  EXPECT_EQ(y[0], -10.5f);
  EXPECT_EQ(y[255], 1.5f * -31);

  b = block(GgufType::kIQ4_XS);
  put(b, 0, kHalf);
  b[2] = 0x03;  // block 0: high bits 3
  b[4] = 0x02;  // low bits 2: 50 - 32
  b[8] = 0x0f;
  y = decode(GgufType::kIQ4_XS, b);
  EXPECT_EQ(y[0], 9.0f * 113);
  EXPECT_EQ(y[16], 9.0f * -127);
  EXPECT_EQ(y[32], -16.0f * -127);
}

TEST(GgufBlocks, RefusesWrongLengths) {
  std::vector<float> values(32);
  std::vector<std::byte> bytes(18);
  EXPECT_THROW(decode_gguf(GgufType::kQ4_0, std::span(bytes).first(17), values), Error);
  EXPECT_THROW(decode_gguf(GgufType::kQ4_0, bytes, std::span(values).first(31)), Error);
  EXPECT_THROW(decode_gguf(GgufType::kI8, bytes, std::span(values).first(18)), Error);
  EXPECT_THROW(encode_gguf(GgufType::kQ4_0, values, std::span(bytes).first(17)), Error);
  std::vector<std::byte> k(84);
  std::vector<float> super(256);
  EXPECT_THROW(encode_gguf(GgufType::kQ2_K, super, k), Error);
  EXPECT_THROW(encode_gguf(GgufType::kQ4_K, super, k), Error);
}

TEST(GgufBlocks, EncodesByHand) {
  std::vector<float> x(32, 0.0f);
  x[0] = -4.0f;  // the farthest: code 0, scale 0.5
  x[1] = 3.5f;
  x[17] = 0.3f;  // 0.6 + 8.5 -> 9
  std::vector<std::byte> bytes(18);
  encode_gguf(GgufType::kQ4_0, x, bytes);
  EXPECT_EQ(bytes[0], std::byte{0x00});
  EXPECT_EQ(bytes[1], std::byte{0x38});
  EXPECT_EQ(bytes[2], std::byte{0x80});
  EXPECT_EQ(bytes[3], std::byte{0x9f});

  std::vector<std::byte> eight(34);
  x[0] = 127.0f;
  x[1] = -0.5f;
  x[2] = 2.5f;
  encode_gguf(GgufType::kQ8_0, x, eight);
  EXPECT_EQ(eight[1], std::byte{0x3c});
  EXPECT_EQ(eight[2], std::byte{127});
  EXPECT_EQ(eight[3], std::byte{0xff});  // half away from zero
  EXPECT_EQ(eight[4], std::byte{3});

  for (GgufType type : {GgufType::kQ4_0, GgufType::kQ8_0, GgufType::kIQ4_NL}) {
    const std::vector<float> zeros(32, 0.0f);
    std::vector<std::byte> coded(static_cast<size_t>(gguf_type_info(type).block_bytes));
    std::vector<float> back(32, 1.0f);
    encode_gguf(type, zeros, coded);
    decode_gguf(type, coded, back);
    EXPECT_EQ(back, zeros);
  }
}

std::vector<float> turned(GgufType type, const std::vector<float>& x) {
  const GgufTypeInfo& info = gguf_type_info(type);
  std::vector<std::byte> coded(x.size() / static_cast<size_t>(info.block_elements) *
                               static_cast<size_t>(info.block_bytes));
  std::vector<float> back(x.size());
  encode_gguf(type, x, coded);
  decode_gguf(type, coded, back);
  return back;
}

struct SuperBlocks {
  GgufType type;
  double error;  // of llama.cpp's quantizer without importances, over the variance of normal weights
};
constexpr SuperBlocks kSuperBlocks[] = {{GgufType::kQ4_K, .0050848},
                                        {GgufType::kQ5_K, .0013051},
                                        {GgufType::kQ6_K, .0003152},
                                        {GgufType::kIQ4_XS, .0058835}};

TEST(GgufBlocks, SuperBlocksLoseNoMoreThanLlamaCpp) {
  std::mt19937_64 engine(29);
  std::normal_distribution<float> normal(0, .05f);
  std::vector<float> x(256 * 512);
  for (float& value : x) value = normal(engine);
  for (const SuperBlocks& expected : kSuperBlocks) {
    const std::vector<float> back = turned(expected.type, x);
    double error = 0, power = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double off = double{back[i]} - double{x[i]};
      error += off * off;
      power += double{x[i]} * double{x[i]};
    }
    EXPECT_LT(error / power, 1.02 * expected.error) << gguf_type_info(expected.type).name;
    EXPECT_GT(error / power, 0.8 * expected.error) << gguf_type_info(expected.type).name;
  }
}

// Values that a type can hold come back; each block has its own scale, and ends that fix it.
TEST(GgufBlocks, SuperBlocksKeepWhatTheyCanHold) {
  constexpr int kScales[] = {63, 1, 40, 17, 62, 33, 5, 48};
  for (const int most : {15, 31}) {
    std::vector<float> x(256);
    for (int i = 0; i < 256; ++i) {
      const int code = i % 32 == 0 ? 0 : i % 32 == 1 ? most : i * 7 % (most + 1);
      x[static_cast<size_t>(i)] = 0.5f * static_cast<float>(kScales[i / 32] * code);
    }
    EXPECT_EQ(turned(most == 15 ? GgufType::kQ4_K : GgufType::kQ5_K, x), x);
  }
  std::vector<float> x(256);
  for (int i = 0; i < 256; ++i) {
    const int code = i % 16 == 0 ? -32 : i * 5 % 64 - 32;
    x[static_cast<size_t>(i)] = 0.25f * static_cast<float>((i < 16 ? 128 : 3 + i / 16 * 7) * code);
  }
  EXPECT_EQ(turned(GgufType::kQ6_K, x), x);
  constexpr int kLevels[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  for (int i = 0; i < 256; ++i) {
    const int level = i % 32 == 0 ? -127 : kLevels[i * 5 % 16];
    x[static_cast<size_t>(i)] = 0.25f * static_cast<float>((i < 32 ? 32 : 1 + i / 32 * 4) * level);
  }
  EXPECT_EQ(turned(GgufType::kIQ4_XS, x), x);
}

TEST(GgufBlocks, SuperBlocksAtTheirEdges) {
  for (const SuperBlocks& one : kSuperBlocks) {
    const char* name = gguf_type_info(one.type).name.data();
    const std::vector<float> zeros(256, 0.0f);
    EXPECT_EQ(turned(one.type, zeros), zeros) << name;
    for (const float same : {-0.75f, 0.75f})
      for (const float value : turned(one.type, std::vector<float>(256, same)))
        EXPECT_NEAR(value, same, 0.01f) << name;
    // Factors below the normal halves: still no further off than a step.
    std::vector<float> tiny(256);
    for (int i = 0; i < 256; ++i) tiny[static_cast<size_t>(i)] = 1e-6f * static_cast<float>(i % 17 - 8);
    const std::vector<float> back = turned(one.type, tiny);
    for (size_t i = 0; i < tiny.size(); ++i) EXPECT_NEAR(back[i], tiny[i], 1.5e-6f) << name << ' ' << i;
    std::vector<float> bad = tiny;
    bad[40] = std::numeric_limits<float>::quiet_NaN();
    bad[90] = std::numeric_limits<float>::infinity();
    turned(one.type, bad);  // some bytes
  }
}

TEST(GgufBlocks, ImportanceWeighsTheErrors) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  constexpr size_t kColumns = 512, kRows = 16;
  std::vector<float> weights(kRows * kColumns), importance(kColumns), ones(kColumns, 1.0f);
  for (float& weight : weights) weight = normal(generator);
  for (float& value : importance) value = std::exp(2 * normal(generator));
  for (const GgufType type : {GgufType::kQ4_0, GgufType::kIQ4_NL, GgufType::kQ4_K, GgufType::kQ5_K,
                              GgufType::kQ6_K, GgufType::kIQ4_XS}) {
    const GgufTypeInfo& info = gguf_type_info(type);
    const auto bytes_of = [&](std::span<const float> by) {
      std::vector<std::byte> bytes(weights.size() / static_cast<size_t>(info.block_elements) *
                                   static_cast<size_t>(info.block_bytes));
      encode_gguf(type, weights, bytes, by);
      return bytes;
    };
    const auto error_of = [&](const std::vector<std::byte>& bytes) {
      std::vector<float> values(weights.size());
      decode_gguf(type, bytes, values);
      double sum = 0;
      for (size_t i = 0; i < values.size(); ++i)
        sum += double{importance[i % kColumns]} * std::pow(double{values[i]} - double{weights[i]}, 2);
      return sum;
    };
    const std::vector<std::byte> plain = bytes_of({}), weighted = bytes_of(importance);
    EXPECT_LT(error_of(weighted), .95 * error_of(plain)) << info.name;
    // Numbers alike say nothing to a search for the least squared error.
    if (type != GgufType::kQ4_0 && type != GgufType::kIQ4_NL) {
      EXPECT_EQ(bytes_of(ones), plain) << info.name;
    }
    EXPECT_THROW(bytes_of(std::span(ones).first(kColumns - 1)), Error) << info.name;
    EXPECT_THROW(bytes_of(std::span(ones).first(3 * 256 / 2)), Error) << info.name;
  }
}

TEST(GgufBlocks, TypesByName) {
  EXPECT_EQ(find_gguf_type("iq4_nl")->type, GgufType::kIQ4_NL);
  EXPECT_EQ(find_gguf_type("Q4_k")->type, GgufType::kQ4_K);
  EXPECT_EQ(find_gguf_type("Q4"), nullptr);
  EXPECT_EQ(find_gguf_type(4u), nullptr);
  EXPECT_TRUE(is_gguf_path("a.GGUF"));
  EXPECT_FALSE(is_gguf_path(".gguf"));
}

}  // namespace
}  // namespace nfloat
