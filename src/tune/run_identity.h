// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_RUN_IDENTITY_H_
#define NFLOAT_TUNE_RUN_IDENTITY_H_

#include <span>
#include <string>

#include "base/json.h"
#include "model/model_state.h"
#include "nfloat/train.h"

namespace nfloat {

// Tells the weights that are trained beside from others: the files that the model was loaded from, and how it
// quantized them. Functions among its options cannot be told apart. Throws kIo.
std::string base_fingerprint(const Model::State& model);

// What must be the same for a run to go on as if it had not stopped, as a checkpoint keeps it: `asked` before
// an adapter that is started from changes it, `steps` in all.
Json run_identity(const TrainOptions& asked, int64_t steps, std::span<const TrainRow> rows,
                  const std::string& base);

// Throws kInvalidArgument, naming `path` and what differs.
void expect_same_run(const Json& saved, const Json& now, const std::string& path);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_RUN_IDENTITY_H_
