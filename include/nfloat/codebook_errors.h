// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_ERRORS_H_
#define NFLOAT_CODEBOOK_ERRORS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/codebook.h"

// Expected error of a code on independent weights of a known distribution; needs no model.
namespace nfloat {

struct SourceDistribution {
  enum class Kind : uint8_t { kNormal, kStudentT, kLaplace };
  Kind kind = Kind::kNormal;
  double degrees_of_freedom = 5;  // of Student's t; at least 2.5, so that the variance exists and converges
};

// "normal", "student-t" (5 degrees of freedom), "student-t:7", "laplace". Throws kInvalidArgument.
NFLOAT_API SourceDistribution parse_source_distribution(std::string_view name);
NFLOAT_API std::string source_distribution_name(const SourceDistribution& source);

struct CodebookErrors {
  double mse = 0;      // mean squared error / variance of the weights
  double mae = 0;      // mean absolute error / standard deviation of the weights
  double entropy = 0;  // of the codes, in bits
  double sqnr_db() const noexcept;
};

// The expectation over blocks of `block_size` (2 to 2^30) whose scale is the block's largest magnitude, or,
// for codes with signed_scale, that weight with its sign. Scales are exact, levels and thresholds the float32
// ones. By quadrature over the distribution of the block maximum; good to 1e-9.
// Throws kInvalidArgument.
NFLOAT_API CodebookErrors codebook_errors(const Codebook& codebook, int64_t block_size,
                                          const SourceDistribution& source = {});

// Frequency of each code under the same assumptions, by code; sums to 1.
NFLOAT_API std::vector<double> code_frequencies(const Codebook& codebook, int64_t block_size,
                                                const SourceDistribution& source = {});

// Expectation of the largest magnitude in a block, in standard deviations.
NFLOAT_API double expected_block_maximum(int64_t block_size, const SourceDistribution& source = {});

struct SimulatedErrors {
  CodebookErrors errors;
  double mse_standard_error = 0;
  double mae_standard_error = 0;
  int64_t samples = 0;
};

// The same by sampling whole blocks, at least `samples` weights, scales and arithmetic in float32 as the
// quantizer does it. The same result for every number of threads. Throws kInvalidArgument.
NFLOAT_API SimulatedErrors simulate_codebook_errors(const Codebook& codebook, int64_t block_size,
                                                    const SourceDistribution& source, int64_t samples,
                                                    uint64_t seed = 1, int threads = 0);

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_ERRORS_H_
