// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <boost/math/distributions/students_t.hpp>
#include <boost/math/tools/minima.hpp>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "analyze/fit.h"
#include "base/fail.h"
#include "nfloat/analyze.h"
#include "nfloat/codebook.h"
#include "nfloat/quantize.h"

namespace nfloat {
namespace {

constexpr double kNormalDegrees = 200;  // from here on the normal distribution
constexpr double kPeakTolerance = 0.04;
constexpr int64_t kOffsetSample = 65536;

double upper_tail(const SourceDistribution& source, double x) {  // P(|weight| > x), unit variance
  if (source.kind == SourceDistribution::Kind::kNormal) return std::erfc(x / std::sqrt(2.0));
  using Fast = boost::math::policies::policy<boost::math::policies::promote_double<false>>;
  const double nu = source.degrees_of_freedom;
  const boost::math::students_t_distribution<double, Fast> student(nu);
  return 2 * boost::math::cdf(boost::math::complement(student, x * std::sqrt(nu / (nu - 2))));
}

// Mean square of the largest of `block` magnitudes: the integral of 2 x P(largest > x), in log x.
double expected_peak(const SourceDistribution& source, int64_t block) {
  constexpr int kSteps = 600;
  const double from = std::log(1e-3), step = (std::log(1e4) - from) / kSteps;
  double sum = 1e-6;  // below the range: P = 1
  for (int i = 0; i <= kSteps; ++i) {
    const double x = std::exp(from + step * i), tail = std::min(1.0, upper_tail(source, x));
    const double above = tail >= 1 ? 1 : -std::expm1(static_cast<double>(block) * std::log1p(-tail));
    sum += (i == 0 || i == kSteps ? 0.5 : 1.0) * 2 * x * x * above * step;
    if (x > 1 && above < 1e-12) break;
  }
  return sum;
}

// codebook_errors at nodes of 1 / degrees, kept, and a line between them: tensors of one model ask for
// hundreds of nearly equal fits.
double predicted_error(const Codebook& code, int64_t block, const SourceDistribution& source) {
  static std::mutex guard;
  static std::map<std::tuple<std::string, int64_t, int>, double> known;
  constexpr double kNodes = 64;
  std::string identity = code.signed_scale ? "s" : "a";
  for (const float level : code.levels) identity += std::to_string(std::bit_cast<uint32_t>(level)) + ' ';
  const auto at = [&](int node) {
    const std::tuple key{identity, block, node};
    {
      const std::lock_guard lock(guard);
      if (const auto found = known.find(key); found != known.end()) return found->second;
    }
    SourceDistribution exact;
    if (node > 0) exact = {SourceDistribution::Kind::kStudentT, std::max(2.5, kNodes / node)};
    const double mse = codebook_errors(code, block, exact).mse;
    const std::lock_guard lock(guard);
    known[key] = mse;
    return mse;
  };
  if (source.kind == SourceDistribution::Kind::kNormal) return at(0);
  const double place = kNodes / source.degrees_of_freedom, node = std::floor(place);
  const double low = at(static_cast<int>(node)), high = at(static_cast<int>(node) + 1);
  return low + (high - low) * (place - node);
}

// Blocks over their largest weight with its sign.
void round_trip_signed(std::vector<float>& values, const Codebook& codebook, int64_t block) {
  for (size_t begin = 0; begin < values.size(); begin += static_cast<size_t>(block)) {
    const auto first = values.begin() + static_cast<int64_t>(begin);
    const auto last = first + std::min(block, values.end() - first);
    const float scale =
        *std::max_element(first, last, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
    for (auto value = first; value != last; ++value)
      *value = scale != 0 ? codebook.levels[codebook.encode(*value / scale)] * scale : 0;
  }
}

double measured_error(const std::vector<float>& sample, const Codebook& codebook, int64_t block,
                      ScaleMethod scale, int threads) {
  const TensorView view{DType::kF32, Shape{static_cast<int64_t>(sample.size())},
                        std::as_bytes(std::span(sample))};
  QuantizeOptions options;
  options.block_size = block;
  options.scale = scale;
  options.threads = threads;
  std::vector<float> back = sample;
  if (codebook.signed_scale)
    round_trip_signed(back, codebook, block);
  else
    dequantize_blockwise(quantize_blockwise(view, codebook, options), DType::kF32,
                         std::as_writable_bytes(std::span(back)), threads);
  double error = 0, power = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double x = static_cast<double>(sample[i]), e = static_cast<double>(back[i]) - x;
    error += e * e;
    power += x * x;
  }
  return power > 0 ? error / power : 0;
}

SourceDistribution source_of(const StudentFit& fit) {
  if (fit.degrees_of_freedom >= kNormalDegrees) return {};
  return {SourceDistribution::Kind::kStudentT, std::max(2.5, fit.degrees_of_freedom)};
}

}  // namespace

SourceDistribution WeightStatistics::source() const {
  return source_of(plain.student);
}

PredictingFit predicting_fit(const WeightStatistics& statistics) {
  PredictingFit best;
  if (!(statistics.deviation > 0)) return best;
  for (const bool within : {true, false}) {
    const DistributionStatistics& own = within ? statistics.normalised : statistics.plain;
    PredictingFit fit;
    fit.source = source_of(own.student);
    fit.within_blocks = within;
    fit.peak_ratio = statistics.block_peak / expected_peak(fit.source, statistics.block_size);
    fit.accepted = (own.student_accepted() ||
                    (fit.source.kind == SourceDistribution::Kind::kNormal && own.normal_accepted())) &&
                   std::fabs(fit.peak_ratio - 1) <= kPeakTolerance;
    const bool nearer = std::fabs(std::log(fit.peak_ratio)) < std::fabs(std::log(best.peak_ratio));
    if (within || (fit.accepted && !best.accepted) || (fit.accepted == best.accepted && nearer)) best = fit;
  }
  return best;
}

const CodeError& CodeAnalysis::best() const {
  return *std::min_element(codes.begin(), codes.end(),
                           [](const CodeError& a, const CodeError& b) { return a.measured < b.measured; });
}

CodeAnalysis analyze_codes(const TensorView& weights, const WeightStatistics& statistics,
                           std::span<const Codebook> codes, const AnalyzeOptions& options) {
  expect_block_size(options.block_size);
  CodeAnalysis result;
  result.fit = predicting_fit(statistics);
  const int64_t elements = weights.elements(), block = options.block_size;
  const std::vector<float> sample = spread_sample(
      weights, options.error_sample > 0 ? options.error_sample : elements, std::min(block, elements));
  result.sample = static_cast<int64_t>(sample.size());
  for (const Codebook& code : codes)
    result.codes.push_back({code.name, predicted_error(code, block, result.fit.source),
                            measured_error(sample, code, block, ScaleMethod::kAbsmax, options.threads)});
  result.signed_nf4 =
      measured_error(sample, make_codebook("nf4"), block, ScaleMethod::kSigned, options.threads);
  const std::vector<float> few =
      spread_sample({DType::kF32, Shape{result.sample}, std::as_bytes(std::span(sample))}, kOffsetSample,
                    std::min(block, result.sample));
  const auto [offset, mse] = boost::math::tools::brent_find_minima(
      [&](double x) {
        return measured_error(few, make_normal_float(4, x), block, ScaleMethod::kAbsmax, options.threads);
      },
      0.86, 0.995, 10);
  result.best_offset = {offset, mse};
  return result;
}

}  // namespace nfloat
