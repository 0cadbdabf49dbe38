// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_COMPARE_RANKS_H_
#define NFLOAT_CLI_COMPARE_RANKS_H_

#include <functional>
#include <string>
#include <vector>

#include "compare_job.h"
#include "nfloat/ranks.h"

namespace nfloat::cli {

// Each rank measures some of the formats as one process does, by measure(formats). Returns when `work` of
// rank 0 has what all have found. Throws on every rank where one has another model.
void measure_by_ranks(Ranks& ranks, const std::vector<std::string>& formats, CompareWork& work,
                      const std::function<Comparison(const std::vector<std::string>&)>& measure);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_COMPARE_RANKS_H_
