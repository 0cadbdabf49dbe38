// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_FITTED_H_
#define NFLOAT_CODEBOOK_FITTED_H_

#include <cstdint>
#include <vector>

// Codes fitted to the distribution of a normal weight divided by its block's scale.
namespace nfloat {

struct FitOptions {
  int levels = 16;
  int64_t block_size = 64;
  bool signed_scale = false;   // the scale is the block's largest weight with its sign
  bool absolute = false;       // least mean absolute instead of mean squared error
  std::vector<double> pinned;  // levels that stay, ascending: -1 first, 0 at rank levels/2 - 1, 1 last
};

// Ascending levels with the least expected error for N(0,1) among those that contain `pinned` (Lloyd
// iteration on the exact distribution, to 1e-13). Throws kInvalidArgument for a bad block size.
std::vector<double> fit_levels(const FitOptions& options);

// AbnormalFloat (arXiv 2306.06965), ascending: -1, 0, 1 stay; the levels between are medians of their cells
// under the distribution of weight / absmax itself, not weighted by the scale, and the cells beside zero
// reach down to it.
std::vector<double> abnormal_float_levels(int64_t block_size);

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_FITTED_H_
