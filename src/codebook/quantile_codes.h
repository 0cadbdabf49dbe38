// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_QUANTILE_CODES_H_
#define NFLOAT_CODEBOOK_QUANTILE_CODES_H_

#include <vector>

// Codes whose levels are quantiles of a distribution, ascending, exact.
namespace nfloat {

// The NF construction (see make_normal_float). Throws kInvalidArgument.
std::vector<double> normal_float_levels(int bits, double offset);

// The same from quantiles of Student's t.
std::vector<double> student_float_levels(int bits, double offset, double degrees_of_freedom);

// QLoRA's equation (4) as it is printed: q_i = 1/2 (Q(i/17) + Q((i+1)/17)), divided by the largest. Its first
// and last are infinite; the 15 finite ones are here.
std::vector<double> nf4_paper_levels();

// Medians of 16 equally probable bins of the normal distribution, divided by the largest: no zero.
std::vector<double> nf4_symmetric_levels();

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_QUANTILE_CODES_H_
