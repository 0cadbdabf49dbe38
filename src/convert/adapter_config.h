// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_ADAPTER_CONFIG_H_
#define NFLOAT_CONVERT_ADAPTER_CONFIG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "convert/adapter_targets.h"

namespace nfloat {

// What of a LoRA adapter's adapter_config.json decides the merged numbers. Every key is known to decide, or
// known not to, or switched off (null, false, empty): any other is refused by name.
class AdapterConfig {
 public:
  // Throws kNotFound, kMalformedFile, kUnsupported naming file and key.
  explicit AdapterConfig(const std::string& folder);

  // What B A of a module's pair is multiplied by: alpha / rank, or rank-stabilized alpha / sqrt(rank). alpha
  // is that of the first entry of alpha_pattern, in the order of the file, whose expression matches the
  // module's whole name or the part of it that begins behind a dot; else lora_alpha. Throws kMalformedFile
  // where the configuration gives the module another rank (r, rank_pattern) or no pair (AdapterTargets).
  double scale(const std::string& module, int64_t rank) const;

  // Of modules that have no pair, those for which the configuration asks for one (AdapterTargets): a sentence
  // that names them and `file`, where the pairs should be; empty where there are none.
  std::string missing(const std::vector<std::string>& without_pair, const std::string& file) const;

  bool dora() const noexcept { return dora_; }
  bool bias_of_up() const noexcept { return bias_of_up_; }  // lora_bias
  bool fan_in_fan_out() const noexcept { return fan_in_fan_out_; }
  bool ties_weights() const noexcept { return ties_weights_; }  // ensure_weight_tying
  const std::vector<std::string>& whole_modules() const noexcept { return whole_modules_; }
  const std::string& source() const noexcept { return source_; }

 private:
  std::string source_;
  double alpha_ = 0;
  bool by_root_ = false, dora_ = false, bias_of_up_ = false, fan_in_fan_out_ = false, ties_weights_ = false;
  int64_t rank_ = 0;  // r; 0: not said
  std::vector<std::pair<ModuleExpression, double>> alphas_;
  std::vector<std::pair<ModuleExpression, int64_t>> ranks_;
  AdapterTargets targets_;
  std::vector<std::string> whole_modules_;  // modules_to_save
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_ADAPTER_CONFIG_H_
