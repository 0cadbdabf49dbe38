// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_RANKS_RANKS_DEVICE_H_
#define NFLOAT_ENGINE_RANKS_RANKS_DEVICE_H_

#include <memory>
#include <span>
#include <vector>

#include "engine/device.h"
#include "nfloat/ranks.h"

namespace nfloat {

// Throws kInvalidArgument unless `weights` are shares of so many ranks: one a rank, finite, none below 0,
// some above; or none at all.
void expect_shares(std::span<const double> weights, int ranks);

// The CPU of this rank and, of every matrix, some of its rows: a product is computed by all ranks, each its
// own rows, and gathered by all, so that it has the bits of one process whatever their number and shares.
// Heads of attention are shared out too, with their keys and values. All other steps are computed by every
// rank. `weights`: the ranks' shares (expect_shares()), in any unit; empty: equal ones. The engines of a
// device take turns: one pass at a time, in the same order on all ranks.
std::shared_ptr<Device> ranks_device(std::shared_ptr<Ranks> ranks, std::vector<double> weights);

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_RANKS_RANKS_DEVICE_H_
