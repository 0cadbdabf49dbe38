// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_PLAN_RANKS_H_
#define NFLOAT_CLI_PLAN_RANKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/memory_plan.h"

namespace nfloat::cli {

// Machines that run one model together.
struct RankPlanOptions {
  std::vector<std::string> memory;  // of each
  std::vector<std::string> read;    // GB/s of each; none: no rates
  double latency = .1;              // ms of an exchange
};

// Which formats fit, with which shares, and how many tokens a second to expect at most: printed.
void plan_ranks(const RankPlanOptions& options, const ModelSize& model, int64_t context, bool json);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_PLAN_RANKS_H_
