// SPDX-License-Identifier: Apache-2.0
// Products on matrix units of Vulkan, or on what stands for them (tests/vulkan: the checking loader).
#include "card_test.h"
#include "engine/vulkan/open.h"
#include "nfloat/codebook.h"
#include "nfloat/quantize.h"

namespace nfloat::testing {
namespace {

constexpr double kSums = 1e-6;                   // of the absolute products: float32
constexpr double kHalves = 0x1p-10 + 0x1p-11;    // a weight may be cut off, x is rounded
constexpr int64_t kRowCounts[] = {33, 64, 130};  // more than 32; tiles have 64

class VulkanUnits : public CardTest {
 protected:
  void SetUp() override {
    const std::vector<std::shared_ptr<Device>> found = vulkan::open();
    for (; place_ < found.size() && device_ == nullptr; place_ += device_ == nullptr ? 1 : 0)
      if (found[place_]->matrix_units().starts_with("in use")) device_ = found[place_];
    ASSERT_TRUE(device_ != nullptr || std::getenv("NFLOAT_VULKAN_UNITS") == nullptr || found.empty())
        << "matrix units are there and not in use";
    if (device_ == nullptr) GTEST_SKIP() << "no device of Vulkan here whose matrix units are in use";
  }

  // Weights that halves hold, whatever their scales.
  Coded exact(int64_t rows, int64_t cols, int64_t block, int64_t nested) {
    Coded made = coded(rows, cols, block, nested);
    for (float& level : made.levels) level = std::round(level * 64) / 64;
    const auto power = [&](float& value) {
      value = std::ldexp(value < 0 ? -1.0f : 1.0f, static_cast<int>(generator_() % 6) - 3);
    };
    for (std::vector<float>* const all : {&made.scales, &made.absmax, &made.map})
      for (float& value : *all) power(value);
    if (nested > 0) made.source.nested_offset = 0;
    return made;
  }

  struct Group {
    LinearGroup weights;
    std::vector<float> values, bias;
  };
  void add(Group& group, const Coded& made, bool biased = true) {
    group.bias = biased ? random(made.source.rows) : std::vector<float>(index(made.source.rows));
    group.weights.add(*device_, made.source, group.bias, 1);
    group.values = decoded(made.source);
  }
  // The largest error as a share of the absolute products. A row that `skipped` names is expected not to be
  // finite.
  double error(const Group& group, const std::vector<float>& x, int64_t rows, Precision precision,
               int64_t skipped = -1) {
    const int64_t outputs = group.weights.outputs();
    const std::vector<float> y = product(group.weights, x, rows, precision);
    const reference::Product expected =
        reference::multiply(x, group.values, group.bias, rows, outputs, group.weights.inputs());
    double largest = 0;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t o = 0; o < outputs; ++o) {
        const size_t at = index(row * outputs + o);
        if (row == skipped) {
          EXPECT_FALSE(std::isfinite(y[at])) << "row " << row << " output " << o;
        } else {
          EXPECT_TRUE(std::isfinite(y[at])) << "row " << row << " output " << o;
          const double share = std::fabs(double{y[at]} - expected.y[at]) / (expected.magnitude[at] + 1e-37);
          largest = std::max(largest, share);
        }
      }
    return largest;
  }

  size_t place_ = 0;
};

struct Size {
  int64_t outputs, cols, block;
};
constexpr Size kSizes[] = {{70, 64, 64},   {64, 320, 64}, {1, 96, 96},
                           {129, 128, 32}, {20, 32, 32},  {66, 64, 256}};

TEST_F(VulkanUnits, OnlyFactorsAreRounded) {
  for (const Size& size : kSizes)
    for (const int64_t nested : {0, 4})
      for (const int64_t rows : kRowCounts)
        for (const bool halves_hold_it : {true, false}) {
          SCOPED_TRACE(::testing::Message()
                       << size.outputs << " x " << size.cols << " in " << size.block << " nested " << nested
                       << " rows " << rows << " exact " << halves_hold_it);
          Group group;
          add(group, halves_hold_it ? exact(size.outputs, size.cols, size.block, nested)
                                    : coded(size.outputs, size.cols, size.block, nested));
          std::vector<float> x = random(rows * size.cols);
          if (halves_hold_it)
            for (float& value : x) value = std::round(value * 64) / 64;
          const double found = error(group, x, rows, Precision::kBF16);
          EXPECT_LE(found, kSums + (halves_hold_it ? 0 : kHalves));
          EXPECT_TRUE(halves_hold_it || found > 2 * kSums) << "these are not halves";
          if (HasFailure()) return;
        }
}

// Tables of all codes, as a quantizer fills them; a block and a row of zeros among the weights.
TEST_F(VulkanUnits, EveryCodeIsTaken) {
  const int64_t outputs = 40, cols = 128;
  int codes = 0;
  for (const std::string& name : codebook_names()) {
    const Codebook code = make_codebook(name);
    if (code.levels.size() > 16) continue;
    ++codes;
    for (const bool nested : {false, true}) {
      SCOPED_TRACE(name + (nested ? ":dq" : ""));
      std::vector<float> plain = random(outputs * cols);
      std::fill_n(plain.begin() + 3 * cols, cols, 0.0f);
      std::fill_n(plain.begin() + 7 * cols + 64, 64, 0.0f);
      for (float& value : plain) value *= 0.02f;
      const TensorView view{DType::kF32, Shape({outputs, cols}), std::as_bytes(std::span(plain))};
      const QuantizedTensor tensor =
          quantize_blockwise(view, code, {.double_quantization = nested, .threads = 1});
      const PackSource source = pack_source(tensor);
      Group group;
      group.bias.resize(index(outputs));
      group.weights.add(*device_, source, {}, 1);
      group.values = decoded(source);
      const double found = error(group, random(36 * cols), 36, Precision::kInt8);
      EXPECT_LE(found, kSums + kHalves);
      EXPECT_GT(found, 2 * kSums) << "not on units";
    }
  }
  EXPECT_GT(codes, 8);
}

// Tiles would keep all of x, and levels that halves hold.
TEST_F(VulkanUnits, TheyAreTaken) {
  Group group;
  add(group, exact(70, 64, 64, 0));
  const std::vector<float> x = random(40 * 64);
  EXPECT_GT(error(group, x, 40, Precision::kBF16), 10 * kSums);
  EXPECT_LE(error(group, x, 40, Precision::kBF16), kHalves / 3 + kSums);
}

TEST_F(VulkanUnits, PrecisionF32StaysFloat32) {
  Group group;
  add(group, coded(70, 128, 64, 0));
  EXPECT_LE(error(group, random(40 * 128), 40, Precision::kF32), kSums);
  EXPECT_GT(error(group, random(40 * 128), 40, Precision::kInt8), 2 * kSums);
}

// No half holds 65520: rows have a power of two taken out, and so have weights.
TEST_F(VulkanUnits, NothingOverflows) {
  for (const float size : {1e-30f, 1e-6f, 3e4f, 1e6f, 1e22f})
    for (const float weight : {1e-10f, 1.0f, 1e10f}) {
      SCOPED_TRACE(::testing::Message() << "x " << size << " weights " << weight);
      Coded made = coded(40, 96, 32, 0);
      for (float& scale : made.scales) scale *= weight;
      Group group;
      add(group, made, false);
      std::vector<float> x = random(34 * 96);
      for (float& value : x) value *= size;
      for (int64_t row = 0; row < 34; ++row) x[index(row * 96 + row)] *= 3000;  // an outlier
      EXPECT_LE(error(group, x, 34, Precision::kBF16), kSums + kHalves);
    }
}

TEST_F(VulkanUnits, WhatIsNotFiniteStaysInItsRow) {
  Group group;
  add(group, coded(70, 64, 64, 4));
  const std::vector<float> x = random(66 * 64);
  const std::vector<float> clean = product(group.weights, x, 66, Precision::kBF16);
  for (const float bad : {kNaN, INFINITY, -INFINITY})
    for (const int64_t row : {0, 13, 65}) {
      std::vector<float> own = x;
      own[index(row * 64 + 63)] = bad;
      EXPECT_LE(error(group, own, 66, Precision::kBF16, row), kSums + kHalves) << bad << " in row " << row;
      const std::vector<float> y = product(group.weights, own, 66, Precision::kBF16);
      for (size_t i = 0; i < y.size(); ++i)
        if (static_cast<int64_t>(i) / 70 != row) {
          ASSERT_EQ(y[i], clean[i]) << bad << " in row " << row;
        }
    }
  // Rows of zeros are the bias.
  std::vector<float> zeros = x;
  std::fill(zeros.begin() + 5 * 64, zeros.begin() + 6 * 64, 0.0f);
  const std::vector<float> y = product(group.weights, zeros, 66, Precision::kBF16);
  for (int64_t o = 0; o < 70; ++o) ASSERT_EQ(y[index(5 * 70 + o)], group.bias[index(o)]);
}

// Weights so far apart that halves would lose the small ones, not finite, or in other blocks: ordinary tiles.
TEST_F(VulkanUnits, OtherWeightsGoInTiles) {
  for (const float scale : {1e-9f, 1e30f, 1e-30f}) {
    Coded made = coded(40, 64, 32, 0);
    made.scales[2] = made.scales[3] = scale;  // a row, beside which nothing hides what is lost
    Group group;
    add(group, made, false);
    EXPECT_LE(error(group, random(40 * 64), 40, Precision::kBF16), 0x1p-11 + kSums) << scale;
  }
  for (const Size& size : {Size{20, 100, 64}, {20, 64, 16}, {7, 96, 48}}) {
    Group group;
    add(group, coded(size.outputs, size.cols, size.block, 4));
    EXPECT_LE(error(group, random(40 * size.cols), 40, Precision::kBF16), kSums) << size.cols;
  }
  Coded made = coded(40, 64, 32, 0);
  made.scales[2] = kNaN;
  LinearGroup group;
  group.add(*device_, made.source, {}, 1);
  const std::vector<float> y = product(group, random(40 * 64), 40, Precision::kBF16);
  for (int64_t row = 0; row < 40; ++row)
    for (int64_t o = 0; o < 40; ++o) ASSERT_EQ(std::isnan(y[index(row * 40 + o)]), o == 1) << row << " " << o;
}

// One set of halves of x for matrices side by side, some of them not for units.
TEST_F(VulkanUnits, AGroupSharesItsRows) {
  Group group;
  const std::vector<float> none;
  for (const bool plain : {true, false, false, true}) {
    const Coded made = coded(plain ? 9 : 70, 64, plain ? 16 : 64, 0);
    const std::vector<float> values = decoded(made.source), bias = random(made.source.rows);
    group.weights.add(*device_, made.source, bias, 1);
    group.values.insert(group.values.end(), values.begin(), values.end());
    group.bias.insert(group.bias.end(), bias.begin(), bias.end());
  }
  for (const int64_t rows : {40, 70, 35})  // memory of the engine's own grows, and is used again
    EXPECT_LE(error(group, random(rows * 64), rows, Precision::kBF16), kSums + kHalves);
}

TEST_F(VulkanUnits, MatricesInParts) {
  device_ = vulkan::open(8192).at(place_);
  Group group;
  add(group, coded(300, 96, 32, 4));
  EXPECT_LE(error(group, random(70 * 96), 70, Precision::kBF16), kSums + kHalves);
}

TEST_F(VulkanUnits, RowsAreTheSameInAnyCompany) {
  for (const int64_t cols : {64, 320}) {
    LinearGroup group;
    const Coded made = coded(50, cols, 64, 4);
    group.add(*device_, made.source, random(50), 1);
    const std::vector<float> x = random(130 * cols), all = product(group, x, 130, Precision::kBF16);
    for (const int64_t rows : {33, 40, 64, 65})
      for (const int64_t first : {0, 5, 33, 65}) {
        const std::vector<float> some = product(
            group, {x.begin() + first * cols, x.begin() + (first + rows) * cols}, rows, Precision::kBF16);
        for (size_t i = 0; i < some.size(); ++i)
          ASSERT_EQ(some[i], all[index(first * 50) + i])
              << cols << " columns, " << rows << " rows from " << first;
      }
  }
}

}  // namespace
}  // namespace nfloat::testing
