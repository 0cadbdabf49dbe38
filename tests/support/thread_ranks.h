// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_THREAD_RANKS_H_
#define NFLOAT_TESTS_SUPPORT_THREAD_RANKS_H_

#include <memory>
#include <vector>

#include "nfloat/ranks.h"

namespace nfloat {

// Ranks of one process, each for a thread of its own: what is written for ranks is run and tested with them
// where there is no MPI. abort() ends the process.
std::vector<std::shared_ptr<Ranks>> thread_ranks(int count, double timeout = kRankTimeout);

}  // namespace nfloat

#endif  // NFLOAT_TESTS_SUPPORT_THREAD_RANKS_H_
