// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ANALYZE_FIT_H_
#define NFLOAT_ANALYZE_FIT_H_

#include <vector>

#include "nfloat/analyze.h"

namespace nfloat {

// Kolmogorov-Smirnov distances of `sample` to the normal distribution and to `result.student`, into `result`.
void measure_distances(std::vector<float> sample, double mean, double deviation,
                       DistributionStatistics& result);

// Throws kInvalidArgument below 1.
void expect_block_size(int64_t block_size);

// Runs of whole blocks, evenly spread over the tensor, `most` weights at the most, in float32.
std::vector<float> spread_sample(const TensorView& weights, int64_t most, int64_t block);

}  // namespace nfloat

#endif  // NFLOAT_ANALYZE_FIT_H_
