// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_ROPE_CONFIG_H_
#define NFLOAT_MODEL_ROPE_CONFIG_H_

#include "model/json_reader.h"
#include "nfloat/model_config.h"

namespace nfloat {

inline constexpr int64_t kMaxRopeContext = int64_t{1} << 27;

// Fills rope, local_rope and rotary_dim from "rope_theta", "rope_scaling", "rope_parameters" and what goes
// with them. `config` has its heads and context.
void read_rope(const Json& root, const std::string& source, ModelConfig& config);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_ROPE_CONFIG_H_
