// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_RANKS_SAME_FILES_H_
#define NFLOAT_RANKS_SAME_FILES_H_

#include <string>

#include "nfloat/ranks.h"

namespace nfloat {

// Throws kInvalidArgument on every rank where one has read something else from `path` than rank 0, by what
// each gives as fingerprint.
void expect_same_files(Ranks& ranks, const std::string& path, const std::string& fingerprint);

}  // namespace nfloat

#endif  // NFLOAT_RANKS_SAME_FILES_H_
