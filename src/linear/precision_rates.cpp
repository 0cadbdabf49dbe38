// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <vector>

#include "base/fail.h"
#include "nfloat/linear.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

// Sixteen matrices of 2 MiB of codes: one row passes over all of them, more than most last caches hold. Every
// other one has 8-bit scales: on Zen 5 they make int8 the faster one for a row where float32 scales make
// bf16.
constexpr int64_t kRows = 2048, kColumns = 2048, kManyRows = 64, kBlock = 64;
constexpr int kMatrices = 16;
constexpr int kFewestRounds = 2;  // the first one wakes threads and touches memory
constexpr std::chrono::milliseconds kEnough(200);

struct Bench {
  std::vector<PackedMatrix> matrices;
  std::vector<float> x, y;
  Activations one, many;
  int threads;

  explicit Bench(int thread_count) : x(kManyRows * kColumns), y(kManyRows * kRows), threads(thread_count) {
    // What is multiplied does not matter to the time.
    std::vector<uint8_t> codes(kRows * kColumns / 2, 0x6b);
    std::vector<float> scales(kRows * kColumns / kBlock, 0.02f), levels(16);
    std::vector<uint8_t> scale_codes(scales.size());
    for (size_t i = 0; i < scale_codes.size(); ++i) scale_codes[i] = static_cast<uint8_t>(i * 37);
    for (size_t i = 0; i < levels.size(); ++i) levels[i] = static_cast<float>(i) / 7.5f - 1;
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8;
    PackSource source;
    source.codes = codes;
    source.levels = levels;
    source.rows = kRows;
    source.cols = kColumns;
    source.block_size = kBlock;
    source.scales = scales;
    PackSource nested = source;
    nested.scales = {};
    nested.nested_codes = scale_codes;
    const auto of_codes = static_cast<size_t>(nested.nested_block_size);
    nested.nested_absmax = std::span(scales).first(scales.size() / of_codes);
    nested.nested_map = std::span(scales).first(256);
    for (int i = 0; i < kMatrices; ++i)
      matrices.push_back(PackedMatrix::pack(i % 2 == 0 ? source : nested, threads));
  }

  // Seconds of one product, conversion of the activations included.
  double one_row(Precision precision) {
    const Clock::time_point start = Clock::now();
    one.assign(x.data(), kColumns, 1, kColumns);
    for (const PackedMatrix& matrix : matrices)
      linear(matrix, one, y.data(), {.precision = precision, .threads = threads});
    return std::chrono::duration<double>(Clock::now() - start).count() / kMatrices;
  }
  double many_rows(Precision precision) {
    const Clock::time_point start = Clock::now();
    many.assign(x.data(), kColumns, kManyRows, kColumns);
    linear(matrices[0], many, y.data(), {.precision = precision, .threads = threads});
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
};

void keep_best(double& rate, int64_t rows, double seconds) noexcept {
  rate = std::max(rate, static_cast<double>(rows * kRows * kColumns) * 1e-9 / seconds);
}

Precision faster(double bf16, double int8) noexcept {
  constexpr double kWorthwhile = 1.03;
  return int8 > bf16 * kWorthwhile ? Precision::kInt8 : Precision::kBF16;
}

}  // namespace

PrecisionRates measure_precisions(int threads) {
  const Clock::time_point start = Clock::now();
  Bench bench(threads);
  PrecisionRates rates;
  for (int round = 0; round < kFewestRounds || Clock::now() - start < kEnough; ++round) {
    keep_best(rates.one_row_int8, 1, bench.one_row(Precision::kInt8));
    keep_best(rates.one_row_bf16, 1, bench.one_row(Precision::kBF16));
    keep_best(rates.many_rows_int8, kManyRows, bench.many_rows(Precision::kInt8));
    keep_best(rates.many_rows_bf16, kManyRows, bench.many_rows(Precision::kBF16));
  }
  return rates;
}

PrecisionChoice faster_precisions(const PrecisionRates& rates) noexcept {
  return {.one_row = faster(rates.one_row_bf16, rates.one_row_int8),
          .many_rows = faster(rates.many_rows_bf16, rates.many_rows_int8)};
}

}  // namespace nfloat
