// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ANALYZE_H_
#define NFLOAT_ANALYZE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/codebook.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/tensor.h"

// The distribution of a tensor's weights, and what each code costs on it.
namespace nfloat {

// Student's t that fits best (maximum likelihood in scale and degrees of freedom, located at the mean).
struct StudentFit {
  double degrees_of_freedom = 0;  // 2.5 to 1000; 1000 stands for the normal distribution
  double scale = 0;
  double distance = 0;  // Kolmogorov-Smirnov, on the same sample as the normal one
};

struct DistributionStatistics {
  double normal_distance =
      0;               // Kolmogorov-Smirnov distance to the normal distribution with mean and deviation
  int64_t sample = 0;  // weights that the distances are taken from, evenly spread over the tensor
  StudentFit student;
  double excess_kurtosis = 0;
  // The distance is below 1.63 / sqrt(sample): the 1 % point where the parameters come from many more weights
  // than the sample.
  bool normal_accepted() const noexcept;
  bool student_accepted() const noexcept;
};

struct WeightStatistics {
  int64_t elements = 0;
  double mean = 0, deviation = 0, skew = 0;
  double absmax = 0;
  double outlier_share = 0;  // further than 6 deviations from the mean: 2e-9 of normal weights
  int64_t zeros = 0;
  int64_t block_size = 0;
  double block_peak =
      0;  // mean square of the largest magnitude of a block over the mean square of all weights
  DistributionStatistics plain;
  DistributionStatistics normalised;   // each weight over the root mean square of its block
  bool has_outliers() const noexcept;  // absmax above 12 deviations, or an outlier share above 1e-4
  // The distribution that the fit found.
  SourceDistribution source() const;
};

struct AnalyzeOptions {
  int64_t block_size = 64;
  int64_t sample = 4096;          // for the distances
  int64_t fit_sample = 262144;    // for the fit
  int64_t error_sample = 262144;  // for the errors of the codes; 0: all weights
  int threads = 0;
};

// One pass over all weights (F32, F16 or BF16), one over the sample. Throws kInvalidArgument for other types,
// no weights or a block size below 1, kNotFinite naming the first bad index.
NFLOAT_API WeightStatistics analyze_weights(const TensorView& weights, const AnalyzeOptions& options = {});

// Maximum-likelihood Student's t around `mean`. `values`: at least two that differ.
NFLOAT_API StudentFit fit_student(std::span<const float> values, double mean);

// NormalFloat's largest probability with the least squared error for weights drawn from `source`.
struct BestOffset {
  double offset = 0, mse = 0;
};
NFLOAT_API BestOffset best_offset(const SourceDistribution& source, int64_t block_size);

// The fit that predicts the error of codes on this tensor.
struct PredictingFit {
  SourceDistribution source;
  bool within_blocks = false;  // of weights over the root mean square of their block; else of the weights
  double peak_ratio = 0;       // block_peak over what the fit expects: 1 where the tails agree too
  bool accepted = false;  // its Kolmogorov-Smirnov distance is accepted and the peak ratio within 4 % of 1
};
// The accepted one of the two fits; of two accepted ones, the one whose tails agree better.
NFLOAT_API PredictingFit predicting_fit(const WeightStatistics& statistics);

// Relative squared error of a code with absmax scales: mean squared error / mean square of the weights.
struct CodeError {
  std::string code;
  double predicted = 0;  // from the fit
  double measured = 0;   // by quantizing a sample of whole blocks
};

struct CodeAnalysis {
  PredictingFit fit;
  std::vector<CodeError> codes;   // in the order of the request
  double signed_nf4 = 0;          // measured: NF4 with signed scales of least squared error
  BestOffset best_offset;         // NormalFloat's offset with the least measured error
  int64_t sample = 0;             // weights that the errors are measured on
  const CodeError& best() const;  // the least measured error
};

// `statistics` are those of the same weights. `codes`: of at most 16 levels.
// Throws as analyze_weights does.
NFLOAT_API CodeAnalysis analyze_codes(const TensorView& weights, const WeightStatistics& statistics,
                                      std::span<const Codebook> codes, const AnalyzeOptions& options = {});

// Weights in units of the deviation, for drawing: counts in `bins` equal bins of [-limit, limit].
struct WeightHistogram {
  double limit = 0;
  std::vector<uint64_t> counts;
  uint64_t beyond = 0;
};
NFLOAT_API WeightHistogram weight_histogram(const TensorView& weights, const WeightStatistics& statistics,
                                            size_t bins = 121, double limit = 6);

}  // namespace nfloat

#endif  // NFLOAT_ANALYZE_H_
