// SPDX-License-Identifier: Apache-2.0
#include "codebook/source.h"

#include <fmt/format.h>

#include <boost/math/constants/constants.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <charconv>
#include <cmath>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr double kInverseSqrt2Pi = 0.5 * boost::math::constants::two_div_root_pi<double>() *
                                   boost::math::constants::one_div_root_two<double>();
constexpr double kMinDegreesOfFreedom = 2.5;
constexpr double kMaxDegreesOfFreedom = 1e6;

// In float64: the quadrature is good to 1e-9, and long double costs three times as much.
using StudentT = boost::math::students_t_distribution<
    double, boost::math::policies::policy<boost::math::policies::promote_double<false>>>;

}  // namespace

SourceDistribution parse_source_distribution(std::string_view name) {
  SourceDistribution source;
  if (name == "normal") return source;
  source.kind = SourceDistribution::Kind::kLaplace;
  if (name == "laplace") return source;
  constexpr std::string_view kStudent = "student-t";
  source.kind = SourceDistribution::Kind::kStudentT;
  if (name == kStudent) return source;
  if (name.starts_with(kStudent) && name.size() > kStudent.size() + 1 && name[kStudent.size()] == ':') {
    const std::string_view number = name.substr(kStudent.size() + 1);
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), source.degrees_of_freedom);
    if (error == std::errc{} && end == number.data() + number.size()) {
      (void)Source(source);
      return source;
    }
  }
  fail(ErrorCode::kInvalidArgument,
       "unknown distribution '{}': expected normal, student-t, student-t:DEGREES or laplace", name);
}

std::string source_distribution_name(const SourceDistribution& source) {
  switch (source.kind) {
    case SourceDistribution::Kind::kStudentT:
      return fmt::format("student-t:{}", source.degrees_of_freedom);
    case SourceDistribution::Kind::kLaplace:
      return "laplace";
    case SourceDistribution::Kind::kNormal:
      break;
  }
  return "normal";
}

Source::Source(const SourceDistribution& source)
    : kind_(source.kind), nu_(source.degrees_of_freedom), variance_(1) {
  if (kind_ == SourceDistribution::Kind::kLaplace) variance_ = 2;
  if (kind_ != SourceDistribution::Kind::kStudentT) return;
  if (!(nu_ >= kMinDegreesOfFreedom && nu_ <= kMaxDegreesOfFreedom)) {
    fail(ErrorCode::kInvalidArgument, "Student's t with {} degrees of freedom: expected {} to {}", nu_,
         kMinDegreesOfFreedom, kMaxDegreesOfFreedom);
  }
  variance_ = nu_ / (nu_ - 2);
}

double Source::density(double x) const {
  switch (kind_) {
    case SourceDistribution::Kind::kStudentT:
      return boost::math::pdf(StudentT(nu_), x);
    case SourceDistribution::Kind::kLaplace:
      return 0.5 * std::exp(-std::fabs(x));
    case SourceDistribution::Kind::kNormal:
      break;
  }
  return kInverseSqrt2Pi * std::exp(-0.5 * x * x);
}

Moments Source::moments(double x) const {
  const double a = std::fabs(x);
  const double f = density(a);
  Moments moments;
  switch (kind_) {
    case SourceDistribution::Kind::kNormal:
      moments.zeroth = 0.5 * std::erf(a * boost::math::constants::one_div_root_two<double>());
      moments.first = kInverseSqrt2Pi - f;
      moments.second = moments.zeroth - a * f;
      break;
    case SourceDistribution::Kind::kStudentT: {
      // t f(t) is the derivative of -nu/(nu-1) (1 + t^2/nu) f(t); the second moment by parts.
      const double ratio = nu_ / (nu_ - 1);
      const double edge = ratio * (1 + a * a / nu_) * f;
      moments.zeroth = 0.5 - boost::math::cdf(boost::math::complement(StudentT(nu_), a));
      moments.first = ratio * density(0) - edge;
      moments.second = (nu_ - 1) / (nu_ - 2) * (ratio * moments.zeroth - a * edge);
      break;
    }
    case SourceDistribution::Kind::kLaplace:
      moments.zeroth = -0.5 * std::expm1(-a);
      moments.first = moments.zeroth - a * f;
      moments.second = 2 * moments.first - a * a * f;
      break;
  }
  if (x < 0) {
    moments.zeroth = -moments.zeroth;
    moments.second = -moments.second;
  }
  return moments;
}

double Source::magnitude_tail(double x) const {
  switch (kind_) {
    case SourceDistribution::Kind::kStudentT:
      return 2 * boost::math::cdf(boost::math::complement(StudentT(nu_), x));
    case SourceDistribution::Kind::kLaplace:
      return std::exp(-x);
    case SourceDistribution::Kind::kNormal:
      break;
  }
  return std::erfc(x * boost::math::constants::one_div_root_two<double>());
}

std::vector<MaximumNode> block_maximum_nodes(const Source& source, int64_t block_size) {
  if (block_size < 2 || block_size > (int64_t{1} << 30)) {
    fail(ErrorCode::kInvalidArgument, "block size {}: expected 2 to 2^30", block_size);
  }
  const auto size = static_cast<double>(block_size);
  // The narrowest peak, of the normal maximum for 2^30 weights, is 0.03 wide in log m.
  constexpr double kStep = 0.02;
  constexpr double kNegligible = 1e-18;
  const auto node = [&](int i) {
    const double m = std::exp(kStep * i);
    const double tail = source.magnitude_tail(m);
    const double inside = tail < 0.5 ? 1 - tail : 2 * source.moments(m).zeroth;
    const double log_inside = tail < 0.5 ? std::log1p(-tail) : std::log(inside);
    // The density of log m: B (2F - 1)^(B-1) 2 f m.
    return MaximumNode{m, kStep * size * std::exp((size - 1) * log_inside) * 2 * source.density(m) * m,
                       inside};
  };
  const auto size_of = [](const MaximumNode& n) { return n.weight * std::max(1.0, n.maximum * n.maximum); };
  // Begin at the median of the maximum, where (2F - 1)^B is one half, found by doubling and bisection.
  int low = -2000;
  int high = 0;
  const double target_tail = -std::expm1(-std::log(2.0) / size);
  while (source.magnitude_tail(std::exp(kStep * high)) > target_tail) high += 50;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (source.magnitude_tail(std::exp(kStep * middle)) > target_tail ? low : high) = middle;
  }
  std::vector<MaximumNode> nodes = {node(high)};
  const double enough = kNegligible * size_of(nodes.front());
  for (int direction : {-1, 1}) {
    for (int i = high + direction;; i += direction) {
      nodes.push_back(node(i));
      if (size_of(nodes.back()) <= enough) break;
    }
  }
  return nodes;
}

}  // namespace nfloat
