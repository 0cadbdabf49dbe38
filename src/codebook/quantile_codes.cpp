// SPDX-License-Identifier: Apache-2.0
#include "codebook/quantile_codes.h"

#include <algorithm>
#include <boost/math/constants/constants.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <boost/math/special_functions/erf.hpp>

#include "base/fail.h"
#include "nfloat/codebook.h"

namespace nfloat {
namespace {

// `quantile` takes the probability of a larger value, which is exact where probabilities near 1 are not.
template <typename Quantile>
std::vector<double> float_levels(int bits, double offset, Quantile quantile_of_tail) {
  if (bits < 2 || bits > 8)
    fail(ErrorCode::kInvalidArgument, "NormalFloat with {} bits: expected 2 to 8", bits);
  if (!(offset > 0.5 && offset < 1)) {
    fail(ErrorCode::kInvalidArgument, "offset {}: expected a probability between 1/2 and 1", offset);
  }
  const int positive = 1 << (bits - 1);
  const double largest = quantile_of_tail(1 - offset);
  std::vector<double> levels = {0.0};
  const auto side = [&](int count, double sign) {
    for (int i = 0; i < count; ++i) {
      const double tail = 1 - offset + (offset - 0.5) * i / count;
      levels.push_back(sign * (i == 0 ? 1.0 : quantile_of_tail(tail) / largest));
    }
  };
  side(positive, 1.0);
  side(positive - 1, -1.0);
  std::sort(levels.begin(), levels.end());
  return levels;
}

std::vector<double> divided_by_largest(std::vector<double> levels) {
  const double largest = levels.back();
  for (double& level : levels) level /= largest;
  return levels;
}

}  // namespace

double normal_quantile(double probability) {
  if (!(probability > 0 && probability < 1)) {
    fail(ErrorCode::kInvalidArgument, "quantile of probability {}: expected between 0 and 1", probability);
  }
  return -boost::math::constants::root_two<double>() * boost::math::erfc_inv(2 * probability);
}

double generalised_offset(int bits) {
  if (bits < 2 || bits > 8)
    fail(ErrorCode::kInvalidArgument, "NormalFloat with {} bits: expected 2 to 8", bits);
  const double bins = 1 << (bits + 1);
  return 1 - 0.5 * (1 / bins + 1 / (bins - 2));
}

std::vector<double> normal_float_levels(int bits, double offset) {
  return float_levels(bits, offset, [](double tail) { return -normal_quantile(tail); });
}

std::vector<double> student_float_levels(int bits, double offset, double degrees_of_freedom) {
  const boost::math::students_t_distribution<double> student(degrees_of_freedom);
  return float_levels(bits, offset, [&](double tail) { return -boost::math::quantile(student, tail); });
}

std::vector<double> nf4_paper_levels() {
  std::vector<double> levels;
  for (int i = 1; i <= 15; ++i) {
    // The middle one would be a rounding error away from its exact value.
    levels.push_back(i == 8 ? 0.0 : 0.5 * (normal_quantile(i / 17.0) + normal_quantile((i + 1) / 17.0)));
  }
  return divided_by_largest(std::move(levels));
}

std::vector<double> nf4_symmetric_levels() {
  std::vector<double> levels;
  for (int i = 0; i < 16; ++i) levels.push_back(normal_quantile((i + 0.5) / 16));
  return divided_by_largest(std::move(levels));
}

}  // namespace nfloat
