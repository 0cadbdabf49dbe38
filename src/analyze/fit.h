// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ANALYZE_FIT_H_
#define NFLOAT_ANALYZE_FIT_H_

#include <vector>

#include "nfloat/analyze.h"

namespace nfloat {

// Kolmogorov-Smirnov distances of `sample` to the normal distribution and to `result.student`, into `result`.
void measure_distances(std::vector<float> sample, double mean, double deviation,
                       DistributionStatistics& result);

}  // namespace nfloat

#endif  // NFLOAT_ANALYZE_FIT_H_
