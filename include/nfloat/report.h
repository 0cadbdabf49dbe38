// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_REPORT_H_
#define NFLOAT_REPORT_H_

#include <string>
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// The report of a comparison as one HTML file that loads nothing: styles, script and data inside. `data`: the
// JSON document that `nfloat compare --json` writes, with three further members:
//   weights  of all matrices, in deviations: limit, counts and beyond (WeightHistogram), excess_kurtosis,
//            degrees_of_freedom, normal_distance, student_distance, sample (DistributionStatistics),
//            block_maximum (expected, of 64), quantiles [[z of the normal distribution, weight], ...],
//            codes [{name, levels}, ...]
//   nf4      [{probability, z, level}, ...], one a level
//   sweep    best (offset), points [[offset, mse, mae], ...]
// The JSON is not checked; it is escaped so that it can stand inside a page.
NFLOAT_API std::string report_page(std::string_view data);

}  // namespace nfloat

#endif  // NFLOAT_REPORT_H_
