// SPDX-License-Identifier: Apache-2.0
// calibrate_bench [WIDTH...]: the steps of calibration on one thread, each beside the time that its
// operations would take at the rate of multiply-adds in registers, both measured in this run. Random weights
// and inputs that hang together; times are processor time, medians of several passes, so that other programs
// count little.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "calibrate/block_work.h"
#include "calibrate/inputs.h"
#include "calibrate/matrix.h"
#include "engine/linear_id.h"
#include "kernels/dispatch.h"
#include "nfloat/codebook.h"
#include "nfloat/machine.h"
#include "nfloat/quantize.h"

namespace {

using nfloat::Coding;
using nfloat::HessianFactor;

constexpr int64_t kBlock = 64;
constexpr int64_t kTokens = 2 * nfloat::ProductSums::kPortion;
constexpr int kPasses = 5;
// Float32 operations on a weight beside those that grow with the width K (docs/beyond.md): about 35 scales
// tried, eight of them judged with feedback inside a block of 64; sixteen codings of it in a sweep, products
// of it with its own part of H, one column after the other.
constexpr double kFeedback = 700 + 650, kWholeBlock = 1300, kSweep = 600;

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double median_seconds(const std::function<void()>& prepare, const std::function<void()>& step) {
  std::vector<double> seconds;
  for (int pass = 0; pass < kPasses; ++pass) {
    prepare();
    const double begin = processor_seconds();
    step();
    seconds.push_back(processor_seconds() - begin);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kPasses / 2, seconds.end());
  return seconds[kPasses / 2];
}

// Rows of inputs with sixteen directions in common.
std::vector<float> inputs(int64_t width, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  constexpr int64_t kShared = 16;
  std::vector<float> directions(static_cast<size_t>(kShared * width)), rows;
  for (float& value : directions) value = normal(random);
  rows.reserve(static_cast<size_t>(kTokens * width));
  for (int64_t token = 0; token < kTokens; ++token) {
    float shares[kShared];
    for (float& share : shares) share = .3f * normal(random);
    for (int64_t j = 0; j < width; ++j) {
      float value = normal(random);
      for (int64_t s = 0; s < kShared; ++s)
        value += shares[s] * directions[static_cast<size_t>(s * width + j)];
      rows.push_back(value);
    }
  }
  return rows;
}

class Table {
 public:
  explicit Table(double peak) : peak_(peak) {}
  // `rate` in `unit`; `operations` in `seconds`.
  void row(int64_t width, const char* step, double rate, const char* unit, double operations,
           double seconds) const {
    fmt::print("{:>6}  {:<34} {:>8.4g} {:<8} {:>8.1f}  {:>6.1f}  {:>5.0f} %\n", width, step, rate, unit,
               1e3 * seconds, 1e3 * operations / peak_, 100 * operations / peak_ / seconds);
  }

 private:
  double peak_;
};

void measure(int64_t width, const Table& table) {
  std::mt19937_64 random(static_cast<uint64_t>(width));
  std::normal_distribution<float> normal;
  const int64_t rows = std::clamp((int64_t{1} << 21) / width, int64_t{64}, int64_t{2048});
  const auto columns = static_cast<double>(width), weights = static_cast<double>(rows * width);
  std::vector<float> matrix(static_cast<size_t>(rows * width));
  for (float& value : matrix) value = .02f * normal(random);

  const std::vector<float> seen = inputs(width, random);
  nfloat::SquareMatrix hessian;
  const double summing = median_seconds([] {},
                                        [&] {
                                          nfloat::ProductSums sums(1);
                                          sums.add({seen.data(), width, kTokens, width});
                                          hessian = sums.take_mean();
                                        });
  const double hessian_operations = static_cast<double>(kTokens) * columns * columns;
  table.row(width, "Hessian of 4096 tokens", hessian_operations / summing / 1e9, "GFLOP/s",
            hessian_operations, summing);

  nfloat::SquareMatrix copy;
  HessianFactor factor;
  const double factoring = median_seconds(
      [&] { copy = hessian; }, [&] { factor = nfloat::factorize(std::move(copy), width, kTokens, 1); });
  const double factor_operations = 2.0 / 3 * columns * columns * columns;
  table.row(width, "factor", factor_operations / factoring / 1e9, "GFLOP/s", factor_operations, factoring);

  const nfloat::Codebook code = nfloat::make_codebook("nf4");
  const nfloat::Levels levels(code);
  nfloat::QuantizeOptions options;
  options.scale = nfloat::ScaleMethod::kSigned;
  options.threads = 1;
  const nfloat::TensorView view{nfloat::DType::kF32, {rows, width}, std::as_bytes(std::span(matrix))};
  const nfloat::StoredScales scales(nfloat::quantize_blockwise(view, code, options).scales);
  Coding coding{.rows = rows,
                .columns = width,
                .block_size = kBlock,
                .places = std::vector<uint8_t>(matrix.size()),
                .scale_codes = {}};
  coding.scale_codes.resize(static_cast<size_t>(coding.blocks()));
  const double feeding =
      median_seconds([] {}, [&] { nfloat::feed_back(matrix, factor, levels, scales, 8, 1, coding); });
  table.row(width, "feedback, eight finalists", weights / feeding / 1e6, "Mw/s",
            weights * (kFeedback + columns), feeding);
  const Coding fed = coding;
  for (const bool whole : {true, false}) {
    const double sweeping = median_seconds(
        [&] { coding = fed; }, [&] { nfloat::descend(matrix, factor, levels, scales, whole, 1, coding); });
    table.row(width, whole ? "a sweep" : "a sweep with --fast", weights / sweeping / 1e6, "Mw/s",
              weights * (2 * columns + kSweep + (whole ? kWholeBlock : 0)), sweeping);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int64_t> widths;
  for (int i = 1; i < argc; ++i) {
    char* end = nullptr;
    const long long width = std::strtoll(argv[i], &end, 10);
    if (*argv[i] == '\0' || *end != '\0' || width < 1 || width > 32768) {
      fmt::print(stderr, "calibrate_bench: \"{}\" is not a width from 1 to 32768\n", argv[i]);
      return 2;
    }
    widths.push_back(width);
  }
  if (widths.empty()) widths = {256, 768, 2048};
  const double peak = 1e9 * nfloat::measure_machine({.threads = 1, .memory = uint64_t{64} << 20}).fma_f32;
  fmt::print("{}, {}, one thread: float32 multiply-adds in registers {:.0f} GFLOP/s\n\n",
             nfloat::machine_processor(), nfloat::kernels::table().name, peak / 1e9);
  fmt::print("{:>6}  {:<34} {:>17} {:>8}  {:>6}  {:>7}\n", "width", "step", "rate", "ms", "floor", "reached");
  const Table table(peak);
  for (const int64_t width : widths) measure(width, table);
  return 0;
}
