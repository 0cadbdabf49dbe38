// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <boost/math/distributions/normal.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <boost/math/tools/minima.hpp>
#include <cmath>
#include <limits>

#include "analyze/fit.h"
#include "nfloat/analyze.h"
#include "nfloat/codebook.h"

namespace nfloat {
namespace {

constexpr double kLeastDegrees = 2.5, kMostDegrees = 1000;

// Magnitudes counted in bins of 1/32 octave: the likelihood then costs the same for any number of values.
// Half of each magnitude, so that none exceeds float32.
struct Magnitudes {
  std::vector<double> value, count;
  double total = 0, mean_square = 0;

  Magnitudes(std::span<const float> values, double mean) {
    constexpr uint32_t kShift = 18;
    std::vector<uint32_t> counts((0x7f800000u >> kShift) + 1);
    for (const float x : values)
      ++counts[std::bit_cast<uint32_t>(static_cast<float>(std::fabs(static_cast<double>(x) - mean) / 2)) >>
               kShift];
    for (uint32_t bin = 0; bin < counts.size(); ++bin) {
      if (counts[bin] == 0) continue;
      const auto low = static_cast<double>(std::bit_cast<float>(bin << kShift));
      const auto high = static_cast<double>(
          std::min(std::bit_cast<float>((bin + 1) << kShift), std::numeric_limits<float>::max()));
      value.push_back((low + high) / 2);
      count.push_back(counts[bin]);
      total += counts[bin];
      mean_square += counts[bin] * value.back() * value.back();
    }
    mean_square /= total;
  }
};

// The scale with the greatest likelihood for given degrees of freedom: fixed-point steps of the EM algorithm
// from the square in `square`, which is left at the result's.
double best_scale(const Magnitudes& m, double degrees, double& square) {
  for (int step = 0; step < 200; ++step) {
    double sum = 0;
    for (size_t i = 0; i < m.value.size(); ++i) {
      const double x2 = m.value[i] * m.value[i];
      sum += m.count[i] * (degrees + 1) * x2 / (degrees + x2 / square);
    }
    const double next = sum / m.total;
    const bool done = std::fabs(next - square) <= 1e-7 * square;
    square = next;
    if (done) break;
  }
  return std::sqrt(square);
}

double negative_log_likelihood(const Magnitudes& m, double degrees, double& square) {
  const double scale = best_scale(m, degrees, square);
  double sum = 0;
  for (size_t i = 0; i < m.value.size(); ++i) {
    const double z = m.value[i] / scale;
    sum += m.count[i] * std::log1p(z * z / degrees);
  }
  return (degrees + 1) / 2 * sum / m.total + std::log(scale) + std::log(degrees) / 2 +
         std::log(boost::math::tgamma_delta_ratio(degrees / 2, 0.5));
}

template <typename Cdf>
double distance(const std::vector<float>& sorted, const Cdf& cdf) {
  const auto n = static_cast<double>(sorted.size());
  double worst = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const double p = cdf(static_cast<double>(sorted[i]));
    worst = std::max({worst, p - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - p});
  }
  return worst;
}

}  // namespace

StudentFit fit_student(std::span<const float> values, double mean) {
  const Magnitudes magnitudes(values, mean);
  StudentFit fit;
  if (!(magnitudes.mean_square > 0)) return fit;
  // In 1 / degrees the likelihood is smooth up to the normal distribution.
  double square = magnitudes.mean_square;  // one evaluation's result is the next one's start
  const auto [inverse, loss] = boost::math::tools::brent_find_minima(
      [&](double x) { return negative_log_likelihood(magnitudes, 1 / x, square); }, 1 / kMostDegrees,
      1 / kLeastDegrees, 16);
  static_cast<void>(loss);
  fit.degrees_of_freedom = 1 / inverse;
  fit.scale = 2 * best_scale(magnitudes, fit.degrees_of_freedom, square);
  return fit;
}

void measure_distances(std::vector<float> sample, double mean, double deviation,
                       DistributionStatistics& result) {
  std::sort(sample.begin(), sample.end());
  result.sample = static_cast<int64_t>(sample.size());
  const boost::math::normal normal(mean, deviation);
  result.normal_distance = distance(sample, [&](double x) { return boost::math::cdf(normal, x); });
  // In float64: long double would cost three times as much for digits that a distance does not show.
  using Fast = boost::math::policies::policy<boost::math::policies::promote_double<false>>;
  const boost::math::students_t_distribution<double, Fast> student(result.student.degrees_of_freedom);
  result.student.distance = distance(
      sample, [&](double x) { return boost::math::cdf(student, (x - mean) / result.student.scale); });
}

BestOffset best_offset(const SourceDistribution& source, int64_t block_size) {
  const auto [offset, mse] = boost::math::tools::brent_find_minima(
      [&](double x) { return codebook_errors(make_normal_float(4, x), block_size, source).mse; }, 0.86, 0.995,
      20);
  return {offset, mse};
}

}  // namespace nfloat
