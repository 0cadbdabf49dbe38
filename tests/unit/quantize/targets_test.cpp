// SPDX-License-Identifier: Apache-2.0
// Every instruction set gives the bytes of the portable kernels, and these the bytes of the plain rule.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "kernels/dispatch.h"
#include "nfloat/codebook.h"
#include "quantize/blocks.h"

namespace {

using nfloat::kernels::ElementType;
using nfloat::kernels::KernelTable;

struct Case {
  ElementType type;
  int64_t elements, block;
};

// Weights of a language model's kind: mostly small, some outliers, some blocks of zeros; now and then NaN or
// infinity when asked for. At an odd address, as in a mapped file.
std::vector<uint8_t> weights(const Case& c, uint32_t seed, bool finite) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const size_t width = c.type == ElementType::kF32 ? 4 : 2;
  std::vector<uint8_t> bytes(static_cast<size_t>(c.elements) * width + 1);
  for (int64_t i = 0; i < c.elements; ++i) {
    float value = 0.02f * normal(random);
    if (random() % 97 == 0) value *= 30.0f;
    if (i / c.block % 7 == 3) value = 0.0f;
    if (!finite && random() % 501 == 0) value = random() % 2 == 0 ? std::nanf("") : -INFINITY;
    uint8_t* to = bytes.data() + 1 + static_cast<size_t>(i) * width;
    const uint16_t half =
        c.type == ElementType::kF16 ? nfloat::float_to_f16(value) : nfloat::float_to_bf16(value);
    std::memcpy(to, c.type == ElementType::kF32 ? static_cast<const void*>(&value) : &half, width);
  }
  return bytes;
}

struct Output {
  int64_t bad_quantize = 0, bad_search = 0, bad_signed = 0;
  std::vector<uint8_t> codes, signed_codes;
  std::vector<float> scales, searched, signed_scales;
};

Output run(const KernelTable& target, const Case& c, const std::vector<uint8_t>& bytes,
           const nfloat::kernels::CodeTable& table) {
  const size_t blocks = static_cast<size_t>((c.elements + c.block - 1) / c.block);
  const size_t code_bytes = static_cast<size_t>((c.elements + 1) / 2);
  Output out;
  out.codes.resize(code_bytes);
  out.signed_codes.resize(code_bytes);
  for (auto* scales : {&out.scales, &out.searched, &out.signed_scales}) scales->resize(blocks);
  const nfloat::kernels::BlocksArgs args{bytes.data() + 1, c.type, c.elements, c.block, &table};
  out.bad_quantize = target.quantize.quantize(args, out.scales.data(), out.codes.data());
  out.bad_search = target.quantize.fit(args, false, out.searched.data());
  out.bad_signed = target.quantize.fit(args, true, out.signed_scales.data());
  target.quantize.encode(args, out.signed_scales.data(), out.signed_codes.data());
  return out;
}

template <typename T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    // Groups of whole blocks, their remainders, partial blocks, odd sizes that share bytes, long blocks.
    for (const int64_t block : {16, 32, 63, 64, 100, 256, 257, 1025, 4096})
      for (const int64_t elements : {block * 35, block * 17 + block / 2 + 1, block - 1})
        all.push_back({type, elements, block});
  }
  return all;
}

TEST(Targets, AllGiveTheBytesOfThePortableOne) {
  const auto tables = nfloat::kernels::runnable_tables();
  uint32_t seed = 1;
  for (const char* code : {"nf4", "fp4", "nf3"}) {
    const nfloat::kernels::CodeTable table = nfloat::make_code_table(nfloat::make_codebook(code));
    for (const Case& c : cases()) {
      for (const bool finite : {true, false}) {
        const std::vector<uint8_t> bytes = weights(c, ++seed, finite);
        const Output expected = run(*tables.front(), c, bytes, table);
        for (const KernelTable* target : tables.subspan(1)) {
          SCOPED_TRACE(std::string(target->name) + " " + code + " block " + std::to_string(c.block) + " of " +
                       std::to_string(c.elements) + " type " + std::to_string(static_cast<int>(c.type)));
          const Output found = run(*target, c, bytes, table);
          EXPECT_EQ(found.bad_quantize, expected.bad_quantize);
          EXPECT_EQ(found.bad_search, expected.bad_search);
          EXPECT_EQ(found.bad_signed, expected.bad_signed);
          EXPECT_TRUE(same_bytes(found.codes, expected.codes));
          EXPECT_TRUE(same_bytes(found.scales, expected.scales));
          EXPECT_TRUE(same_bytes(found.searched, expected.searched));
          EXPECT_TRUE(same_bytes(found.signed_scales, expected.signed_scales));
          EXPECT_TRUE(same_bytes(found.signed_codes, expected.signed_codes));
        }
      }
    }
  }
}

// The rule of docs/formats.md, weight by weight, for whole blocks of finite weights.
TEST(Targets, AbsmaxFollowsThePlainRule) {
  const nfloat::Codebook codebook = nfloat::make_codebook("nf4");
  const nfloat::kernels::CodeTable table = nfloat::make_code_table(codebook);
  const Case c{ElementType::kF32, 64 * 37, 64};
  const std::vector<uint8_t> bytes = weights(c, 7, true);
  std::vector<float> values(static_cast<size_t>(c.elements));
  std::memcpy(values.data(), bytes.data() + 1, values.size() * 4);
  for (const KernelTable* target : nfloat::kernels::runnable_tables()) {
    const Output found = run(*target, c, bytes, table);
    for (size_t i = 0; i < values.size(); ++i) {
      float absmax = 0;
      for (size_t k = i / 64 * 64; k < i / 64 * 64 + 64; ++k)
        absmax = std::fmax(absmax, std::fabs(values[k]));
      ASSERT_EQ(found.scales[i / 64], absmax);
      const int nibble = i % 2 == 0 ? found.codes[i / 2] >> 4 : found.codes[i / 2] & 15;
      ASSERT_EQ(nibble, codebook.encode(values[i] * (1.0f / std::fmax(absmax, 1e-38f))))
          << target->name << " " << i;
    }
  }
}

}  // namespace
