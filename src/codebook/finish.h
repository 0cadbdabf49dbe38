// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_FINISH_H_
#define NFLOAT_CODEBOOK_FINISH_H_

#include <string>
#include <vector>

#include "nfloat/codebook.h"

namespace nfloat {

// A table whose float32 levels are not simply the exact ones rounded. Both by code.
// Throws as codebook_from_levels.
Codebook finish_codebook(std::string name, std::vector<float> levels, std::vector<double> exact);

std::vector<float> rounded(const std::vector<double>& exact);

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_FINISH_H_
