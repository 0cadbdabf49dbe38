// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TRAIN_OUTPUTS_H_
#define NFLOAT_CLI_TRAIN_OUTPUTS_H_

#include <string>

#include "train_options.h"

namespace nfloat::cli {

// Where a run keeps what it needs to go on.
std::string checkpoint_folder(const TrainArguments& arguments);

// Throws kInvalidArgument where what `nfloat train` writes is something that it reads, or is written twice.
// `model`: the folder or file that MODEL stands for.
void expect_train_outputs_apart(const TrainArguments& arguments, const std::string& model);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TRAIN_OUTPUTS_H_
