// SPDX-License-Identifier: Apache-2.0
// Panels of weights as pairs of bf16 along their rows and columns: every number is that of the weight.
#include "kernels/train.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/float16.h"
#include "kernels/dispatch.h"

namespace nfloat::kernels {
namespace {

size_t index(int64_t i) {
  return static_cast<size_t>(i);
}

constexpr uint32_t kUntouched = 0xdeadbeef;

// Expects pair l of column c of `made` to be the numbers of rows 2l and 2l + 1, and nothing else written.
template <typename Value>
void expect_pairs(const PairKernels& pairs, int64_t octets, const std::vector<uint32_t>& made,
                  Value&& value) {
  for (int64_t l = 0; l < kPanelRows / 2; ++l)
    for (int64_t c = 0; c < pairs.columns; ++c) {
      const uint32_t one = made[index(l * pairs.columns + c)];
      if (c >= octets * kOctet) {
        ASSERT_EQ(one, kUntouched) << l << ' ' << c;
        continue;
      }
      ASSERT_EQ(one & 0xffff, value(2 * l, c)) << l << ' ' << c;
      ASSERT_EQ(one >> 16, value(2 * l + 1, c)) << l << ' ' << c;
    }
}

// Expects pair l of row r to be the numbers of columns 2l and 2l + 1.
template <typename Value>
void expect_columns(const PairKernels& pairs, int64_t octets, const std::vector<uint32_t>& made,
                    Value&& value) {
  for (int64_t l = 0; l < octets * kOctet / 2; ++l)
    for (int64_t r = 0; r < pairs.columns; ++r) {
      const uint32_t one = made[index(l * pairs.columns + r)];
      if (r >= kPanelRows) {
        ASSERT_EQ(one, kUntouched) << l << ' ' << r;
        continue;
      }
      ASSERT_EQ(one & 0xffff, value(r, 2 * l)) << l << ' ' << r;
      ASSERT_EQ(one >> 16, value(r, 2 * l + 1)) << l << ' ' << r;
    }
}

// body(kernels, octets) for each target that runs here and each width; false: none multiplies pairs.
template <typename Body>
bool over_pair_kernels(const Body& body) {
  bool any = false;
  for (const KernelTable* table : runnable_tables()) {
    const PairKernels* const pairs = table->train.pairs;
    if (pairs == nullptr) continue;
    any = true;
    for (int64_t octets = 1; octets <= pairs->columns / kOctet; ++octets) body(*pairs, octets);
  }
  return any;
}

TEST(TrainKernels, PairsOfCodesAreTheirRoundedWeights) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  LevelTables levels{};
  for (float& level : levels.f32) level = normal(generator);
  levels.f32[5] = 0;
  const bool any = over_pair_kernels([&](const PairKernels& pairs, int64_t octets) {
    std::vector<uint8_t> packed(index(octets * kPackedOctetBytes));
    for (uint8_t& byte : packed) byte = static_cast<uint8_t>(generator());
    std::vector<float> scales(kPanelRows);
    for (float& scale : scales) scale = normal(generator);
    scales[3] = 0;
    scales[7] = std::numeric_limits<float>::infinity();
    std::vector<uint32_t> made(index(kPanelRows / 2 * pairs.columns), kUntouched);
    pairs.pair_codes(packed.data(), octets, levels, scales.data(), made.data());
    const auto value = [&](int64_t row, int64_t column) -> uint32_t {
      const int64_t in_octet = column % kOctet;
      const uint8_t both = packed[index(column / kOctet * kPackedOctetBytes + 4 * row + in_octet % 4)];
      return float_to_bf16(levels.f32[in_octet < 4 ? both & 15 : both >> 4] * scales[index(row)]);
    };
    expect_pairs(pairs, octets, made, value);
    std::vector<uint32_t> columns(index(octets * kOctet / 2 * pairs.columns), kUntouched);
    pairs.pair_columns(packed.data(), octets, levels, scales.data(), columns.data());
    expect_columns(pairs, octets, columns, value);
  });
  if (!any) GTEST_SKIP() << "needs a processor whose kernels multiply pairs of bf16";
}

TEST(TrainKernels, PairsOfHalvesAreTheWeights) {
  constexpr int kFirst[4] = {0, 4, 1, 5};  // column of the lower half of each word; the upper one: two more
  std::mt19937 generator(4);
  const bool any = over_pair_kernels([&](const PairKernels& pairs, int64_t octets) {
    std::vector<uint16_t> weights(index(octets * kOctet * kPanelRows));  // by column and row
    std::vector<uint8_t> halves(index(octets * kHalfOctetBytes));
    for (int64_t octet = 0; octet < octets; ++octet)
      for (int64_t word = 0; word < 4; ++word)
        for (int64_t row = 0; row < kPanelRows; ++row)
          for (int64_t half = 0; half < 2; ++half) {
            const auto bits = static_cast<uint16_t>(generator());
            weights[index((octet * kOctet + kFirst[word] + 2 * half) * kPanelRows + row)] = bits;
            std::memcpy(&halves[index(octet * kHalfOctetBytes + 64 * word + 4 * row + 2 * half)], &bits, 2);
          }
    std::vector<uint32_t> made(index(kPanelRows / 2 * pairs.columns), kUntouched);
    pairs.pair_halves(halves.data(), octets, made.data());
    const auto value = [&](int64_t row, int64_t column) -> uint32_t {
      return weights[index(column * kPanelRows + row)];
    };
    expect_pairs(pairs, octets, made, value);
    std::vector<uint32_t> columns(index(octets * kOctet / 2 * pairs.columns), kUntouched);
    pairs.pair_half_columns(halves.data(), octets, columns.data());
    expect_columns(pairs, octets, columns, value);
  });
  if (!any) GTEST_SKIP() << "needs a processor whose kernels multiply pairs of bf16";
}

}  // namespace
}  // namespace nfloat::kernels
