// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_GENERATION_DEFAULTS_H_
#define NFLOAT_GENERATE_GENERATION_DEFAULTS_H_

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "nfloat/generate.h"

namespace nfloat {

// What the user sets, over `defaults`. A seed that is unset is a different one each time.
SamplerOptions settings_over(const SamplingSettings& settings, SamplerOptions defaults);

// What generation_config.json beside a model says; read once, when it is first asked for. Any number of
// threads may ask.
class GenerationDefaults {
 public:
  GenerationDefaults(std::string path, const ModelConfig& config)
      : path_(std::move(path)), config_(config), ends_(config.eos_tokens) {}
  // Throws as sampler_options(). The seed is 0.
  const SamplerOptions& options() const {
    read();
    return options_;
  }
  const std::vector<int32_t>& end_tokens() const {
    read();
    return ends_;
  }
  const std::string& path() const noexcept { return path_; }

 private:
  void read() const;

  std::string path_;
  ModelConfig config_;
  mutable std::mutex mutex_;
  mutable bool read_ = false;
  mutable SamplerOptions options_;
  mutable std::vector<int32_t> ends_;
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_GENERATION_DEFAULTS_H_
