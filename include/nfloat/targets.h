// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TARGETS_H_
#define NFLOAT_TARGETS_H_

#include <string>
#include <vector>

#include "nfloat/api.h"

// Kernels are compiled once for each instruction set; the best that the processor runs is chosen at first
// use, or the one that the environment variable NFLOAT_TARGET names.
namespace nfloat {

// The one in use, as "avx2".
NFLOAT_API std::string active_target();
// Those of this build that the processor runs, slowest first.
NFLOAT_API std::vector<std::string> runnable_targets();
// Empty, or why NFLOAT_TARGET is not followed.
NFLOAT_API std::string forced_target_error();

}  // namespace nfloat

#endif  // NFLOAT_TARGETS_H_
