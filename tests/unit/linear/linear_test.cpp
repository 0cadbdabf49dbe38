// SPDX-License-Identifier: Apache-2.0
#include "nfloat/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "base/float16.h"
#include "kernels/dispatch.h"
#include "nfloat/checkpoint.h"
#include "nfloat/codebook.h"
#include "nfloat/error.h"
#include "nfloat/quantize.h"
#include "reference/gemm.h"
#include "support/paths.h"

namespace nfloat {
namespace {

struct Case {
  int64_t m, n, k, block;
};

// Every tail: rows past a panel, columns past a block, blocks that cross rows on and off octets, runs of
// several panels, one and several runs along k, and few, some and many rows of activations.
const Case kCases[] = {{1, 1, 1, 16},        {1, 16, 64, 64},     {2, 17, 128, 32},     {3, 5, 96, 64},
                       {4, 33, 48, 64},      {5, 31, 80, 64},     {7, 64, 256, 16},     {8, 48, 512, 64},
                       {9, 20, 1024, 128},   {12, 7, 2064, 64},   {23, 40, 320, 320},   {24, 65, 640, 64},
                       {25, 100, 1088, 64},  {40, 18, 96, 64},    {64, 96, 4096, 4096}, {33, 50, 77, 64},
                       {6, 19, 130, 20},     {70, 16, 1040, 104}, {30, 21, 4160, 1040}, {2, 9, 8192, 4096},
                       {26, 80, 2048, 2048}, {27, 30, 1032, 24},  {17, 530, 288, 32},   {531, 40, 520, 40}};

std::vector<float> gaussian(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

QuantizedTensor quantized(const std::vector<float>& weights, int64_t n, int64_t k, int64_t block,
                          const char* code = "nf4", bool nested = false) {
  const TensorView view{DType::kF32, Shape({n, k}), std::as_bytes(std::span(weights))};
  QuantizeOptions options;
  options.block_size = block;
  options.double_quantization = nested;
  return quantize_blockwise(view, make_codebook(code, block), options);
}

std::vector<float> dequantized(const QuantizedTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(values)));
  return values;
}

constexpr Precision kPrecisions[] = {Precision::kF32, Precision::kBF16, Precision::kInt8};

template <typename Matrix>
std::vector<float> product(const Matrix& matrix, const std::vector<float>& x, int64_t m, Precision precision,
                           const std::vector<float>& bias = {}, int threads = 2) {
  std::vector<float> y(static_cast<size_t>(m * matrix.rows()), NAN);
  Activations activations;
  activations.assign(x.data(), matrix.cols(), m, matrix.cols());
  LinearOptions options;
  options.precision = precision;
  options.threads = threads;
  options.bias = bias.empty() ? nullptr : bias.data();
  linear(matrix, activations, y.data(), options);
  return y;
}

// f32: 1e-6 of the sum of absolute products, each. bf16 and int8: each product is off by at most a relative
// or absolute rounding; over the whole matrix 0.4 % and 1 % root mean square, wider where only a few sums are
// averaged.
void expect_close(const std::vector<float>& y, const reference::Product& expected, Precision precision) {
  if (precision == Precision::kF32) {
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_LE(std::fabs(y[i] - expected.y[i]), 1e-6 * expected.magnitude[i] + 1e-37) << "element " << i;
    return;
  }
  const double bound = precision == Precision::kBF16 ? 0.004 : 0.01;
  const double few = y.size() < 64 ? 4 : y.size() < 1000 ? 1.5 : 1;
  EXPECT_LE(reference::relative_rms(y, expected.y), bound * few);
}

class LinearTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* wanted = std::getenv("NFLOAT_TARGET");
    if (wanted != nullptr && kernels::forced_target_error() != nullptr) {
      std::puts("cannot run this target");
      GTEST_SKIP() << "needs a processor that can run the target " << wanted;
    }
  }
};

TEST_F(LinearTest, MatchesTheOracleForEveryShapeAndPrecision) {
  for (const Case& c : kCases) {
    const std::vector<float> x = gaussian(c.m * c.k, 1), bias = gaussian(c.n, 3);
    for (const bool nested : {false, true}) {
      const QuantizedTensor tensor = quantized(gaussian(c.n * c.k, 2), c.n, c.k, c.block, "nf4", nested);
      const auto expected = reference::multiply(x, dequantized(tensor), bias, c.m, c.n, c.k);
      const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor), 2);
      for (const Precision precision : kPrecisions) {
        SCOPED_TRACE(::testing::Message()
                     << "m " << c.m << " n " << c.n << " k " << c.k << " block " << c.block << " nested "
                     << nested << " precision " << static_cast<int>(precision));
        expect_close(product(matrix, x, c.m, precision, bias), expected, precision);
      }
    }
  }
}

// Real matrices, two of them with extreme outliers; --gtest_filter='*Outlier*' prints the errors.
TEST_F(LinearTest, OutlierHeavyWeightsStayWithinTheBounds) {
  const std::string path = testing::shared_path("/weights/gpt2-attention.safetensors");
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not here";
  const Checkpoint checkpoint(path);
  const int64_t m = 8;
  for (const TensorInfo& info : checkpoint.tensors()) {
    const TensorView view = checkpoint.view(info.name);
    const int64_t n = view.shape[0], k = view.shape[1];
    std::vector<float> weights(static_cast<size_t>(n * k));
    convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(weights)));
    const QuantizedTensor tensor = quantized(weights, n, k, 64);
    const std::vector<float> x = gaussian(m * k, 14);
    const auto expected = reference::multiply(x, dequantized(tensor), {}, m, n, k);
    const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor), 2);
    for (const Precision precision : kPrecisions) {
      SCOPED_TRACE(::testing::Message() << info.name << " precision " << static_cast<int>(precision));
      const std::vector<float> y = product(matrix, x, m, precision, {});
      std::printf("%s, %s: relative RMS error %.2e\n", info.name.c_str(),
                  precision == Precision::kF32    ? "f32"
                  : precision == Precision::kBF16 ? "bf16"
                                                  : "int8",
                  reference::relative_rms(y, expected.y));
      expect_close(y, expected, precision);
    }
  }
}

// A row gives the same bits alone and among any number of others: packed weights in int8, plain ones (an
// output head) in every precision but bf16 on matrix units. Columns beyond a run, groups of all kinds, edges,
// biases.
TEST_F(LinearTest, RowsGiveTheSameBitsInEveryCompany) {
  struct Shape2 {
    int64_t n, k, block;
  };
  for (const Shape2& shape : {Shape2{40, 320, 64},
                              {17, 96, 32},
                              {33, 4160, 64},
                              {20, 8448, 64},
                              {16, 9216, 1024},
                              {18, 12288, 4096},
                              {16, 20480, 20480}}) {
    const int64_t n = shape.n, k = shape.k, block = shape.block;
    const std::vector<float> weights = gaussian(n * k, 5), bias = gaussian(n, 7);
    std::vector<float> x = gaussian(64 * k, 6);
    float *const zeros = x.data() + 2 * k, *const outliers = zeros + k, *const tiny = outliers + k;
    for (int64_t i = 0; i < k; ++i) {
      zeros[i] = 0;
      outliers[i] *= i % 7 == 0 ? 1e3f : 1e-37f;
      tiny[i] *= i < 64 ? 3e-38f : 3e-37f;  // blocks below and about the smallest that are not zeros
    }
    const TensorView plain{DType::kF32, Shape({n, k}), std::as_bytes(std::span(weights))};
    std::vector<PackedMatrix> packed;
    for (const bool nested : {false, true}) {
      const QuantizedTensor tensor = quantized(weights, n, k, block, "nf4", nested);
      packed.push_back(PackedMatrix::pack(pack_source(tensor), 1));
    }
    std::vector<DenseMatrix> dense;
    for (const auto storage : {DenseMatrix::Storage::kF32, DenseMatrix::Storage::kF16,
                               DenseMatrix::Storage::kBF16, DenseMatrix::Storage::kInt8})
      dense.push_back(DenseMatrix::pack(plain, storage, 1));
    const auto expect_same = [&](const auto& matrix, Precision precision, const std::string& what) {
      std::vector<float> alone(static_cast<size_t>(64 * n));
      for (int64_t row = 0; row < 64; ++row) {
        Activations one;
        one.assign(x.data() + row * k, k, 1, k);
        linear(matrix, one, alone.data() + row * n,
               {.precision = precision, .threads = 1, .bias = bias.data(), .y_stride = 0});
      }
      for (const int64_t m : {2, 3, 5, 8, 9, 12, 16, 23, 24, 31, 64}) {
        Activations many;
        many.assign(x.data(), k, m, k);
        std::vector<float> y(static_cast<size_t>(m * n));
        linear(matrix, many, y.data(),
               {.precision = precision, .threads = 2, .bias = bias.data(), .y_stride = 0});
        EXPECT_TRUE(std::equal(y.begin(), y.end(), alone.begin()))
            << what << " [" << n << ", " << k << "] blocks of " << block << ", " << m << " rows";
      }
    };
    expect_same(packed[0], Precision::kInt8, "float scales");
    expect_same(packed[1], Precision::kInt8, "8-bit scales");
    // Long rows, which take most of the time, with each storage in one precision.
    for (const DenseMatrix& matrix : dense) {
      const bool all = k < 5000, int8 = &matrix == &dense.back();
      if (all || !int8) expect_same(matrix, Precision::kF32, "plain, f32");
      if (all || int8) expect_same(matrix, Precision::kInt8, "plain, int8");
      // Matrix units sum in another order.
      if (all && kernels::table().gemm.tiles == nullptr) expect_same(matrix, Precision::kBF16, "plain, bf16");
    }
  }
}

TEST_F(LinearTest, RowsDequantizeToTheirExactValues) {
  for (const Case& c : kCases)
    for (const bool nested : {false, true}) {
      const QuantizedTensor tensor = quantized(gaussian(c.n * c.k, 4), c.n, c.k, c.block, "nf4", nested);
      const std::vector<float> expected = dequantized(tensor);
      const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor), 1);
      std::vector<float> row(static_cast<size_t>(c.k));
      for (int64_t n = 0; n < c.n; ++n) {
        matrix.dequantize_row(n, row.data());
        for (int64_t k = 0; k < c.k; ++k)
          ASSERT_EQ(row[static_cast<size_t>(k)], expected[static_cast<size_t>(n * c.k + k)]) << n << " " << k;
      }
    }
}

// Bit for bit what the same scales give in float32, however many groups a row has and rows of activations
// there are; all 256 codes of a scale occur.
TEST_F(LinearTest, EightBitScalesAreDecodedExactly) {
  std::mt19937 generator(11);
  const int64_t n = 40;
  for (int64_t groups = 1; groups <= 9; ++groups)
    for (const auto& [m, block] : {std::pair{1, 64}, {8, 64}, {9, 64}, {1, 256}, {8, 256}}) {
      const int64_t k = groups * block;
      QuantizedTensor tensor = quantized(gaussian(n * k, 7), n, k, block, "nf4", true);
      for (uint8_t& code : tensor.nested.codes) code = static_cast<uint8_t>(generator());
      PackSource source = pack_source(tensor);
      const std::vector<float> scales = dequantize_scales(tensor.nested);
      const PackedMatrix nested = PackedMatrix::pack(source);
      source.nested_codes = {};
      source.scales = scales;
      const PackedMatrix plain = PackedMatrix::pack(source);
      const std::vector<float> x = gaussian(m * k, 8);
      for (const Precision precision : kPrecisions)
        ASSERT_EQ(product(nested, x, m, precision), product(plain, x, m, precision))
            << "m " << m << " block " << block << " groups " << groups << " precision "
            << static_cast<int>(precision);
    }
}

TEST_F(LinearTest, OtherCodes) {
  const int64_t m = 9, n = 48, k = 512;
  for (const char* code : {"fp4", "int4"}) {
    const std::vector<float> x = gaussian(m * k, 5);
    const QuantizedTensor tensor = quantized(gaussian(n * k, 6), n, k, 64, code);
    const auto expected = reference::multiply(x, dequantized(tensor), {}, m, n, k);
    const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor));
    for (const Precision precision : kPrecisions) {
      SCOPED_TRACE(::testing::Message() << code << " precision " << static_cast<int>(precision));
      expect_close(product(matrix, x, m, precision), expected, precision);
    }
  }
}

// Heavy tails in the weights: Student-t with three degrees of freedom. Then one activation in 64 ten times
// the others too: it sets the int8 step of its block, 10 / 127, whose error of step / sqrt(12) is 1.4 % of
// the activations' root mean square of sqrt((63 + 100) / 64); bf16 and float32 have no such step.
TEST_F(LinearTest, HoldsItsBoundsOnOutliers) {
  const int64_t n = 256, k = 1024;
  std::mt19937 generator(7);
  std::student_t_distribution<float> tails(3);
  std::vector<float> weights(static_cast<size_t>(n * k));
  for (float& w : weights) w = tails(generator);
  const QuantizedTensor tensor = quantized(weights, n, k, 64);
  const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor));
  // A few rows, some, many: other kernels each.
  for (const int64_t m : {8, 20, 40})
    for (const bool spiked : {false, true}) {
      std::vector<float> x = gaussian(m * k, 8);
      for (size_t i = 0; spiked && i < x.size(); i += 64) x[i] *= 10;
      const auto expected = reference::multiply(x, dequantized(tensor), {}, m, n, k);
      for (const Precision precision : kPrecisions) {
        SCOPED_TRACE(::testing::Message()
                     << "m " << m << " spiked " << spiked << " precision " << static_cast<int>(precision));
        const std::vector<float> y = product(matrix, x, m, precision);
        if (spiked && precision == Precision::kInt8) {
          EXPECT_LE(reference::relative_rms(y, expected.y), 0.02);
        } else {
          expect_close(y, expected, precision);
        }
      }
    }
}

// Sums that only grow: each rounding counts, none is hidden by a cancellation.
TEST_F(LinearTest, FloatSumsOfOneSignStayExact) {
  const int64_t m = 20, n = 24, k = 4096;
  std::vector<float> weights = gaussian(n * k, 19), x = gaussian(m * k, 20);
  for (float& w : weights) w = std::fabs(w) + 0.1f;
  for (float& v : x) v = std::fabs(v);
  const QuantizedTensor tensor = quantized(weights, n, k, 64);
  const auto expected = reference::multiply(x, dequantized(tensor), {}, m, n, k);
  expect_close(product(PackedMatrix::pack(pack_source(tensor)), x, m, Precision::kF32), expected,
               Precision::kF32);
}

// What is no finite number must not turn into one.
TEST_F(LinearTest, KeepsWhatIsNoNumber) {
  const int64_t n = 16, k = 64;
  const PackedMatrix matrix = PackedMatrix::pack(pack_source(quantized(gaussian(n * k, 21), n, k, 64)));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const int64_t m : {1, 20})
      for (const Precision precision : kPrecisions) {
        std::vector<float> x = gaussian(m * k, 22);
        x[5] = bad;
        const std::vector<float> y = product(matrix, x, m, precision);
        for (int64_t i = 0; i < m * n; ++i)
          ASSERT_EQ(std::isfinite(y[static_cast<size_t>(i)]), i >= n) << m << " " << i;
      }
}

TEST_F(LinearTest, ThreadsChangeNothing) {
  const int64_t n = 100, k = 1024;
  const PackedMatrix matrix = PackedMatrix::pack(pack_source(quantized(gaussian(n * k, 9), n, k, 64)));
  for (const int64_t m : {1, 5, 40})
    for (const Precision precision : kPrecisions) {
      const std::vector<float> x = gaussian(m * k, 10);
      EXPECT_EQ(product(matrix, x, m, precision, {}, 1), product(matrix, x, m, precision, {}, 3));
    }
}

TEST_F(LinearTest, DenseMatricesOfEveryStorage) {
  using Storage = DenseMatrix::Storage;
  const struct {
    int64_t m, n, k;
  } shapes[] = {{1, 16, 64}, {3, 37, 100}, {8, 50, 1024}, {9, 33, 1000}, {40, 64, 640}};
  for (const auto& s : shapes)
    for (const Storage storage : {Storage::kF32, Storage::kF16, Storage::kBF16, Storage::kInt8}) {
      const std::vector<float> weights = gaussian(s.n * s.k, 11), x = gaussian(s.m * s.k, 12),
                               bias = gaussian(s.n, 13);
      const TensorView view{DType::kF32, Shape({s.n, s.k}), std::as_bytes(std::span(weights))};
      const DenseMatrix matrix = DenseMatrix::pack(view, storage);
      std::vector<float> stored(weights.size());
      for (int64_t row = 0; row < s.n; ++row) matrix.dequantize_row(row, stored.data() + row * s.k);
      for (size_t i = 0; i < stored.size(); ++i)
        ASSERT_NEAR(stored[i], weights[i],
                    storage == Storage::kF32    ? 0
                    : storage == Storage::kInt8 ? 0.025
                                                : 0.016);
      const auto expected = reference::multiply(x, stored, bias, s.m, s.n, s.k);
      for (const Precision precision : kPrecisions) {
        SCOPED_TRACE(::testing::Message()
                     << "m " << s.m << " n " << s.n << " k " << s.k << " storage "
                     << static_cast<int>(storage) << " precision " << static_cast<int>(precision));
        expect_close(product(matrix, x, s.m, precision, bias), expected, precision);
      }
    }
}

// Every element comes back as it was, from shapes that end inside octets, squares of the transposition and
// panels; in int8, as the nearest multiple of the scale of its columns.
TEST_F(LinearTest, DenseMatricesKeepEveryElement) {
  using Storage = DenseMatrix::Storage;
  std::mt19937 generator(31);
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{1, 8}, {16, 64}, {37, 1032}, {33, 100}, {20, 72}, {3, 5}}) {
    std::vector<uint16_t> halves(static_cast<size_t>(n * k));
    for (uint16_t& half : halves) half = static_cast<uint16_t>(generator() & 0xbfff);  // finite in both types
    for (const auto& [dtype, storage] :
         {std::pair{DType::kF16, Storage::kF16}, {DType::kBF16, Storage::kBF16}}) {
      const DenseMatrix matrix =
          DenseMatrix::pack({dtype, Shape({n, k}), std::as_bytes(std::span(halves))}, storage, 2);
      std::vector<float> row(static_cast<size_t>(k));
      for (int64_t r = 0; r < n; ++r) {
        matrix.dequantize_row(r, row.data());
        for (int64_t c = 0; c < k; ++c) {
          const uint16_t half = halves[static_cast<size_t>(r * k + c)];
          ASSERT_EQ(row[static_cast<size_t>(c)],
                    dtype == DType::kF16 ? f16_to_float(half) : bf16_to_float(half))
              << r << " " << c << " of [" << n << ", " << k << "]";
        }
      }
    }
    std::vector<float> weights = gaussian(n * k, 32);
    weights[0] = 0;
    const DenseMatrix matrix =
        DenseMatrix::pack({DType::kF32, Shape({n, k}), std::as_bytes(std::span(weights))}, Storage::kInt8, 2);
    const int64_t padded = (k + 7) / 8 * 8;
    int64_t group = 64;
    while (padded % group != 0) group /= 2;
    std::vector<float> row(static_cast<size_t>(k));
    for (int64_t r = 0; r < n; ++r) {
      matrix.dequantize_row(r, row.data());
      const float* from = weights.data() + r * k;
      for (int64_t first = 0; first < k; first += group) {
        const int64_t last = std::min(k, first + group);
        float largest = 0;
        for (int64_t c = first; c < last; ++c) largest = std::max(largest, std::fabs(from[c]));
        const float scale = largest / 127;
        for (int64_t c = first; c < last; ++c)
          ASSERT_EQ(row[static_cast<size_t>(c)], scale > 0 ? std::nearbyint(from[c] / scale) * scale : 0.0f)
              << r << " " << c << " of [" << n << ", " << k << "]";
      }
    }
  }
}

TEST_F(LinearTest, SharedActivationsAndStrides) {
  const int64_t m = 10, k = 256, stride = 300;
  const std::vector<float> x = gaussian(m * stride, 14);
  const QuantizedTensor first = quantized(gaussian(32 * k, 15), 32, k, 64),
                        second = quantized(gaussian(20 * k, 16), 20, k, 32);
  const PackedMatrix a = PackedMatrix::pack(pack_source(first)), b = PackedMatrix::pack(pack_source(second));
  std::vector<float> dense_x, y(static_cast<size_t>(m * 60), -1.0f);
  for (int64_t row = 0; row < m; ++row)
    dense_x.insert(dense_x.end(), x.begin() + row * stride, x.begin() + row * stride + k);
  Activations activations;
  LinearOptions options;
  options.y_stride = 60;
  for (const Precision precision : kPrecisions) {
    options.precision = precision;
    activations.assign(x.data(), stride, m, k);
    linear(a, activations, y.data(), options);
    linear(b, activations, y.data() + 32, options);
    const auto ya = product(a, dense_x, m, precision), yb = product(b, dense_x, m, precision);
    for (size_t row = 0; row < 10; ++row)
      for (size_t j = 0; j < 60; ++j)
        ASSERT_EQ(y[row * 60 + j], j < 32 ? ya[row * 32 + j] : j < 52 ? yb[row * 20 + j - 32] : -1.0f);
  }
}

TEST_F(LinearTest, ReleasesTheSourceOnceFromFrontToBack) {
  const int64_t n = 2000, k = 512;
  const QuantizedTensor tensor = quantized(gaussian(n * k, 17), n, k, 64);
  PackSource source = pack_source(tensor);
  const uint8_t* next = source.codes.data();
  source.release = [&](std::span<const uint8_t> range) {
    EXPECT_EQ(range.data(), next);
    next = range.data() + range.size();
  };
  const PackedMatrix matrix = PackedMatrix::pack(source);
  EXPECT_EQ(next, source.codes.data() + source.codes.size());
  EXPECT_NEAR(static_cast<double>(matrix.bytes()), static_cast<double>(n * k) * 4.5 / 8, 2000);
}

TEST_F(LinearTest, RejectsWhatDoesNotFit) {
  const QuantizedTensor tensor = quantized(gaussian(64, 18), 2, 32, 32);
  PackSource source = pack_source(tensor);
  source.codes = source.codes.first(31);
  EXPECT_THROW(PackedMatrix::pack(source), Error);
  source = pack_source(tensor);
  source.rows = 3;
  EXPECT_THROW(PackedMatrix::pack(source), Error);
  source = pack_source(tensor);
  source.levels = {};
  EXPECT_THROW(PackedMatrix::pack(source), Error);
  source = pack_source(tensor);  // scales of both kinds
  const std::vector<uint8_t> nested(2);
  source.nested_codes = nested;
  EXPECT_THROW(PackedMatrix::pack(source), Error);
  const PackedMatrix matrix = PackedMatrix::pack(pack_source(tensor));
  Activations x;
  std::vector<float> values(64), y(4);
  x.assign(values.data(), 31, 1, 31);
  EXPECT_THROW(linear(matrix, x, y.data()), Error);
  for (const Shape& shape : {Shape{}, Shape({64}), Shape({2, 4, 8})}) {
    QuantizedTensor other = tensor;
    other.shape = shape;
    EXPECT_THROW(pack_source(other), Error) << shape.to_string();
  }
}

TEST(Precisions, TheFasterOneUnlessItIsHardlyFaster) {
  using enum Precision;
  EXPECT_EQ(faster_precisions({10, 10.2, 10, 17}), (PrecisionChoice{kBF16, kInt8}));
  EXPECT_EQ(faster_precisions({10, 20, 30, 10}), (PrecisionChoice{kInt8, kBF16}));
  EXPECT_EQ(faster_precisions({}), (PrecisionChoice{kBF16, kBF16}));
}

TEST(Precisions, AreMeasured) {
  const PrecisionRates rates = measure_precisions(1);
  for (const double rate :
       {rates.one_row_bf16, rates.one_row_int8, rates.many_rows_bf16, rates.many_rows_int8})
    EXPECT_TRUE(rate > 0 && rate < 1e6) << rate;
}

}  // namespace
}  // namespace nfloat
