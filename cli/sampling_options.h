// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_SAMPLING_OPTIONS_H_
#define NFLOAT_CLI_SAMPLING_OPTIONS_H_

#include <string>
#include <vector>

#include "command_line.h"
#include "nfloat/generate.h"

namespace nfloat::cli {

void add_sampling_options(const Command& command, SamplingSettings& settings);

// The settings over those of the model's generation_config.json, of which those that are not known are named
// on standard error.
SamplerOptions named_sampler_options(const SamplingSettings& settings, const std::string& path,
                                     const ModelConfig& config, std::vector<int32_t>* ends);

void name_not_obeyed(const std::vector<std::string>& settings);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_SAMPLING_OPTIONS_H_
