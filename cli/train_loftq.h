// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TRAIN_LOFTQ_H_
#define NFLOAT_CLI_TRAIN_LOFTQ_H_

#include <span>
#include <string>

#include "nfloat/train.h"
#include "train_options.h"

namespace nfloat::cli {

// Throws kAlreadyExists where --loftq-base is and there is no --overwrite.
void expect_room_for_loftq_base(const TrainArguments& arguments);

// LoftQ's rounds before the last one (Li et al. 2023, algorithm 1): of the plain model W that --loftq names,
// the adapter's start s B A is fitted to W - Q and Q is made anew of W - s B A, in the layout of the 4-bit
// model `base`. The last Q is in --loftq-base, a folder that appears whole; what is between is removed.
// Throws Error (`base` is not in bitsandbytes' layout).
void make_loftq_base(const TrainArguments& arguments, const TrainOptions& options, const std::string& base,
                     std::span<const TrainRow> rows);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TRAIN_LOFTQ_H_
