// SPDX-License-Identifier: Apache-2.0
// Panels of weights as pairs of bf16 along their rows and columns: every number is that of the weight.
#include "kernels/train.h"

#include <gtest/gtest.h>

#include <cmath>
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

// Every table that multiplies pairs.
template <typename Body>
bool over_tables_of_pairs(const Body& body) {
  bool any = false;
  for (const KernelTable* table : runnable_tables())
    if (table->train.pairs != nullptr) any = true, body(*table->train.pairs);
  return any;
}

std::vector<uint16_t> random_halves(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> halves(index(count));
  for (uint16_t& half : halves) half = float_to_bf16(normal(generator));
  return halves;
}

// Rows that are turned or joined are those numbers, zero where there are none, and rows are read no further.
TEST(TrainKernels, PairsOfRowsAndTurnedPairs) {
  const bool any = over_tables_of_pairs([&](const PairKernels& pairs) {
    const int64_t columns = pairs.columns;
    for (const int64_t rows : {1, 2, 7, 32, 33})
      for (const int64_t count : {1, 15, 16, 31, 32}) {
        const int64_t stride = count + 2;
        const std::vector<uint16_t> x = random_halves((rows - 1) * stride + count, 7);
        std::vector<uint32_t> made(index((rows + 1) / 2 * columns + 1), kUntouched);
        pairs.pair_rows(x.data(), stride, rows, count, made.data());
        for (int64_t l = 0; l < (rows + 1) / 2; ++l)
          for (int64_t j = 0; j < columns; ++j) {
            const uint32_t one = made[index(l * columns + j)];
            const bool second = 2 * l + 1 < rows;
            ASSERT_EQ(one & 0xffff, j < count ? x[index(2 * l * stride + j)] : 0) << rows << ' ' << count;
            ASSERT_EQ(one >> 16, j < count && second ? x[index((2 * l + 1) * stride + j)] : 0);
          }
        ASSERT_EQ(made.back(), kUntouched);
        if (rows > columns) continue;
        const int64_t step = count + 1;
        const std::vector<uint16_t> halves = random_halves(2 * ((rows - 1) * step + count), 8);
        std::vector<uint32_t> from(halves.size() / 2), turned(index(count * columns + 1), kUntouched);
        std::memcpy(from.data(), halves.data(), halves.size() * sizeof(uint16_t));
        pairs.turn_pairs(from.data(), step, rows, count, turned.data());
        for (int64_t l = 0; l < count; ++l)
          for (int64_t i = 0; i < columns; ++i)
            ASSERT_EQ(turned[index(l * columns + i)], i < rows ? from[index(i * step + l)] : 0u)
                << rows << ' ' << count << " at " << l << ' ' << i;
        ASSERT_EQ(turned.back(), kUntouched);
      }
  });
  if (!any) GTEST_SKIP() << "needs a processor whose kernels multiply pairs of bf16";
}

TEST(TrainKernels, FloatsAreRoundedToPairsAndWidened) {
  const bool any = over_tables_of_pairs([&](const PairKernels& pairs) {
    for (const int64_t count : {1, 15, 16, 17, 48, 61}) {
      std::mt19937 generator(9);
      std::normal_distribution<float> normal;
      std::vector<float> x(index(count)), y(index(count));
      for (float& value : x) value = normal(generator);
      for (float& value : y) value = normal(generator);
      x[0] = std::numeric_limits<float>::infinity(), y[0] = std::numeric_limits<float>::quiet_NaN();
      std::vector<uint32_t> made(index(count + 1), kUntouched);
      pairs.pair_floats(x.data(), y.data(), count, made.data());
      std::vector<uint16_t> rounded(index(count));
      pairs.round_row(x.data(), count, rounded.data());
      std::vector<float> wide(index(count + 1), 7.0f);
      pairs.widen_row(rounded.data(), count, wide.data());
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(made[index(i)] & 0xffff, float_to_bf16(x[index(i)])) << count << ' ' << i;
        ASSERT_EQ(made[index(i)] & 0xffff, rounded[index(i)]);
        ASSERT_EQ(wide[index(i)], bf16_to_float(rounded[index(i)]));
        if (i > 0) {
          ASSERT_EQ(made[index(i)] >> 16, float_to_bf16(y[index(i)]));
        }
      }
      ASSERT_TRUE(std::isnan(bf16_to_float(static_cast<uint16_t>(made[0] >> 16))));
      ASSERT_EQ(made.back(), kUntouched);
      ASSERT_EQ(wide.back(), 7.0f);
    }
  });
  if (!any) GTEST_SKIP() << "needs a processor whose kernels multiply pairs of bf16";
}

// Rows and columns of any number, both ways a may lie in, sums times alpha added to what is there.
TEST(TrainKernels, ProductsOfPairs) {
  const bool any = over_tables_of_pairs([&](const PairKernels& pairs) {
    for (const int64_t m : {1, 11, 12, 25})
      for (const int64_t n : {1, 15, 16, 17, 32})
        for (const bool turned : {false, true}) {
          const int64_t terms = 9, width = n <= pairs.columns / 2 ? pairs.columns / 2 : pairs.columns;
          const std::vector<uint16_t> a = random_halves(2 * m * terms, 10);
          const std::vector<uint16_t> b = random_halves(2 * terms * width, 11);
          std::vector<uint32_t> own(a.size() / 2), weights(b.size() / 2);
          std::memcpy(own.data(), a.data(), a.size() * 2);
          std::memcpy(weights.data(), b.data(), b.size() * 2);
          std::vector<float> c(index(m * (n + 1)), 3.0f);
          const int64_t a_row = turned ? 1 : terms, a_column = turned ? m : 1;
          for (const bool accumulate : {false, true})
            pairs.product({.a = own.data(),
                           .a_row = a_row,
                           .a_column = a_column,
                           .b = weights.data(),
                           .b_row = width,
                           .c = c.data(),
                           .c_stride = n + 1,
                           .m = m,
                           .n = n,
                           .pairs = terms,
                           .alpha = accumulate ? -0.5f : 1.0f,
                           .accumulate = accumulate});
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double sum = 0, bound = 0;
              for (int64_t l = 0; l < terms; ++l)
                for (int64_t half = 0; half < 2; ++half) {
                  const double product =
                      double{bf16_to_float(a[index(2 * (i * a_row + l * a_column) + half)])} *
                      double{bf16_to_float(b[index(2 * (l * width + j) + half)])};
                  sum += product, bound += std::abs(product);
                }
              ASSERT_NEAR(c[index(i * (n + 1) + j)], 0.5 * sum, 1e-6 * bound + 1e-7) << m << ' ' << n;
            }
            ASSERT_EQ(c[index(i * (n + 1) + n)], 3.0f);
          }
        }
  });
  if (!any) GTEST_SKIP() << "needs a processor whose kernels multiply pairs of bf16";
}

}  // namespace
}  // namespace nfloat::kernels
