// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CODEBOOK_BITSANDBYTES_H_
#define NFLOAT_CODEBOOK_BITSANDBYTES_H_

#include <vector>

// The tables of bitsandbytes, from its recipes, bit for bit.
namespace nfloat {

// create_normal_map(offset=0.9677083): the 16 float32 levels of NF4, ascending. Float32 rounding of the
// probabilities is what sets them apart from the exact values.
std::vector<float> bitsandbytes_nf4();

// create_dynamic_map(signed=True): 256 float32 values, ascending.
std::vector<float> bitsandbytes_dynamic_map();

}  // namespace nfloat

#endif  // NFLOAT_CODEBOOK_BITSANDBYTES_H_
