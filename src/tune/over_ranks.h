// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_OVER_RANKS_H_
#define NFLOAT_TUNE_OVER_RANKS_H_

#include "base/json.h"
#include "nfloat/ranks.h"
#include "tune/adapter.h"
#include "tune/optimizer.h"

namespace nfloat {

// Throws on every rank where one has another run (run_identity()) than rank 0.
void expect_same_run(Ranks& ranks, const Json& identity);

// Gradients and loss become the sums of those of all ranks, added in the order of the ranks: the same bits on
// all of them. For a moment memory has as many copies of the largest gradient as there are ranks.
void add_over_ranks(Ranks& ranks, Adapter& adapter, double& loss);

// After a step of which each rank has made its part (AdamW): the whole adapter on all of them.
void share_step(Ranks& ranks, Adapter& adapter);

// The moments of all modules on rank 0, nothing on the others. Called by all.
std::vector<AdamW::Pair> gather_moments(Ranks& ranks, const Adapter& adapter, const AdamW& optimizer);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_OVER_RANKS_H_
