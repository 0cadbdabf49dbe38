// SPDX-License-Identifier: Apache-2.0
#include "sampling_options.h"

#include <fmt/format.h>

#include <algorithm>

namespace nfloat::cli {

void add_sampling_options(const Command& command, SamplingSettings& settings) {
  command.add_option("--temperature", settings.temperature,
                     "Below 1 plainer, above 1 wilder; 0: the most likely token");
  command.add_option("--top-k", settings.top_k, "Choose among the K most likely tokens; 0: all");
  command.add_option("--top-p", settings.top_p,
                     "Choose among the most likely tokens that reach probability P together");
  command.add_option("--min-p", settings.min_p,
                     "Leave out tokens less than P times as likely as the most likely");
  command.add_option("--repetition-penalty", settings.repetition_penalty,
                     "Above 1: tokens seen before become less likely");
  command.add_option("--seed", settings.seed, "The same seed gives the same text; none: another each time");
}

void name_not_obeyed(const std::vector<std::string>& settings) {
  for (const std::string& setting : settings) fmt::print(stderr, "{} is not obeyed\n", setting);
}

SamplerOptions named_sampler_options(const SamplingSettings& settings, const std::string& path,
                                     const ModelConfig& config, std::vector<int32_t>* ends) {
  std::vector<std::string> not_obeyed;
  SamplerOptions result = sampler_options(settings, path, config, ends, &not_obeyed);
  name_not_obeyed(not_obeyed);
  return result;
}

}  // namespace nfloat::cli
