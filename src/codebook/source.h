// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_SOURCE_H_
#define NFLOAT_CODEBOOK_SOURCE_H_

#include <cstdint>
#include <vector>

#include "nfloat/codebook_errors.h"

namespace nfloat {

// Integrals of a symmetric density f from 0 to x: of f, of t f(t), of t^2 f(t). At -x the first and third
// change their sign, the second does not.
struct Moments {
  double zeroth = 0;
  double first = 0;
  double second = 0;
};

// Closed forms of the three densities, unscaled: N(0,1), Student's t, exp(-|x|)/2.
class Source {
 public:
  explicit Source(const SourceDistribution& source);  // throws kInvalidArgument
  double density(double x) const;
  Moments moments(double x) const;
  // Probability of a larger magnitude, without cancellation.
  double magnitude_tail(double x) const;
  double variance() const { return variance_; }

 private:
  SourceDistribution::Kind kind_;
  double nu_;
  double variance_;
};

// One node of a quadrature over the largest magnitude m of a block: expectation of g(m) = sum of weight *
// g(m).
struct MaximumNode {
  double maximum;
  double weight;
  double inside;  // probability that one weight's magnitude is below m
};

// The trapezoidal rule in log m, which converges geometrically for these analytic densities. Covers moments
// of m up to the second. Throws kInvalidArgument for a block size outside 2 to 2^30.
std::vector<MaximumNode> block_maximum_nodes(const Source& source, int64_t block_size);

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_SOURCE_H_
