// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_WEIGHTS_IDENTITY_H_
#define NFLOAT_MODEL_WEIGHTS_IDENTITY_H_

#include <string>

#include "model/model_state.h"

namespace nfloat {

// Tells the weights that models compute with apart: by `files`, a fingerprint of what was read
// (checkpoint/fingerprint.h), and what was made of it while loading. For models without
// ModelOptions::transform and norms, which nothing here can see.
std::string weights_identity(const Model::State& model, const std::string& files);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_WEIGHTS_IDENTITY_H_
