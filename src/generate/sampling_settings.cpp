// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>

#include "base/fail.h"
#include "generate/generation_defaults.h"
#include "nfloat/checkpoint.h"

namespace nfloat {

SamplerOptions settings_over(const SamplingSettings& settings, SamplerOptions defaults) {
  SamplerOptions result = std::move(defaults);
  if (settings.temperature) result.temperature = *settings.temperature;
  if (settings.top_k) result.top_k = *settings.top_k;
  if (settings.top_p) result.top_p = *settings.top_p;
  if (settings.min_p) result.min_p = *settings.min_p;
  if (settings.repetition_penalty) result.repetition_penalty = *settings.repetition_penalty;
  result.seed = settings.seed.value_or(
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()));
  return result;
}

int64_t answer_limit(const SamplerOptions& options, int64_t prompt_tokens, int64_t otherwise) {
  if (options.max_new_tokens > 0) return options.max_new_tokens;
  if (options.max_length == 0) return otherwise;
  if (prompt_tokens >= options.max_length)
    fail(ErrorCode::kInvalidArgument,
         "the prompt has {} tokens, \"max_length\" of generation_config.json allows {} of prompt and text "
         "together: give a limit of tokens to generate",
         prompt_tokens, options.max_length);
  return std::min(otherwise, options.max_length - prompt_tokens);
}

void GenerationDefaults::read() const {
  const std::lock_guard lock(mutex_);
  if (read_) return;
  SamplingSettings settings;
  settings.seed = 0;
  options_ = sampler_options(settings, path_, config_, &ends_);
  read_ = true;
}

SamplerOptions sampler_options(const SamplingSettings& settings, const std::string& path,
                               const ModelConfig& config, std::vector<int32_t>* end_tokens,
                               std::vector<std::string>* not_obeyed) {
  const std::string source = path + "/generation_config.json";
  std::vector<std::string> names;
  SamplerOptions result = parse_generation_config(Checkpoint(path).text_file("generation_config.json"),
                                                  source, config, end_tokens, &names);
  if (not_obeyed != nullptr)
    for (const std::string& name : names) not_obeyed->push_back(source + ": " + name);
  return settings_over(settings, std::move(result));
}

}  // namespace nfloat
