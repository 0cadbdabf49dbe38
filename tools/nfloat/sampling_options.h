// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_SAMPLING_OPTIONS_H_
#define NFLOAT_TOOLS_SAMPLING_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command_line.h"
#include "nfloat/sampler.h"

namespace nfloat::cli {

// How tokens are chosen, as the command line says it; unset: what generation_config.json says.
struct SamplingArguments {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;  // unset: another each time
};

void add_sampling_options(const Command& command, SamplingArguments& arguments);

// With the model's generation_config.json, of which settings that are not known are named on standard error.
SamplerOptions sampler_options(const SamplingArguments& arguments, const std::string& folder,
                               const ModelConfig& config, std::vector<int32_t>* ends);

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_SAMPLING_OPTIONS_H_
