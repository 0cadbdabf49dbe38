// SPDX-License-Identifier: Apache-2.0
#include "sampling_options.h"

#include <fmt/format.h>

#include <chrono>

#include "nfloat/checkpoint.h"

namespace nfloat::cli {

void add_sampling_options(const Command& command, SamplingArguments& arguments) {
  command.add_option("--temperature", arguments.temperature,
                     "Below 1 plainer, above 1 wilder; 0: the most likely token");
  command.add_option("--top-k", arguments.top_k, "Choose among the K most likely tokens; 0: all");
  command.add_option("--top-p", arguments.top_p,
                     "Choose among the most likely tokens that reach probability P together");
  command.add_option("--min-p", arguments.min_p,
                     "Leave out tokens less than P times as likely as the most likely");
  command.add_option("--repetition-penalty", arguments.repetition_penalty,
                     "Above 1: tokens seen before become less likely");
  command.add_option("--seed", arguments.seed, "The same seed gives the same text; none: another each time");
}

SamplerOptions sampler_options(const SamplingArguments& arguments, const std::string& folder,
                               const ModelConfig& config, std::vector<int32_t>* ends) {
  const std::string source = folder + "/generation_config.json";
  std::vector<std::string> not_obeyed;
  SamplerOptions result = parse_generation_config(Checkpoint(folder).text_file("generation_config.json"),
                                                  source, config, ends, &not_obeyed);
  for (const std::string& name : not_obeyed) fmt::print(stderr, "{}: {} is not obeyed\n", source, name);
  if (arguments.temperature) result.temperature = *arguments.temperature;
  if (arguments.top_k) result.top_k = *arguments.top_k;
  if (arguments.top_p) result.top_p = *arguments.top_p;
  if (arguments.min_p) result.min_p = *arguments.min_p;
  if (arguments.repetition_penalty) result.repetition_penalty = *arguments.repetition_penalty;
  result.seed = arguments.seed.value_or(
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()));
  return result;
}

}  // namespace nfloat::cli
