// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_ROPE_CONFIG_H_
#define NFLOAT_ARCHITECTURE_ROPE_CONFIG_H_

#include "base/json_reader.h"
#include "nfloat/model_config.h"

namespace nfloat {

inline constexpr int64_t kMaxRopeContext = int64_t{1} << 27;

// Fills rope, local_rope and rotary_dim from "rope_theta", "rope_scaling", "rope_parameters" and what goes
// with them. `config` has its heads and context.
void read_rope(const Json& root, const std::string& source, ModelConfig& config);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_ROPE_CONFIG_H_
