// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_ADAPTER_TARGETS_H_
#define NFLOAT_CONVERT_ADAPTER_TARGETS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/expression.h"
#include "base/json.h"

namespace nfloat {

// An expression of adapter_config.json for the names of modules. PEFT matches it with Python's re.match, at
// the beginning of a name.
class ModuleExpression {
 public:
  // Throws kUnsupported naming `source` and `key` when the expression does not compile.
  ModuleExpression(const std::string& expression, const std::string& source, const std::string& key);
  // Throws kUnsupported when the match takes more than a bounded number of steps.
  std::optional<Match> match(std::string_view module) const;

 private:
  std::string where_;
  Expression expression_;
};

// Modules by their names: one expression that matches the whole of a name, or a list of names and of their
// ends behind a dot.
class ModuleChoice {
 public:
  ModuleChoice() = default;
  // Throws kMalformedFile and kUnsupported naming `source` and `key`.
  ModuleChoice(const Json& value, const std::string& source, const std::string& key);

  bool empty() const noexcept { return !expression_ && names_.empty(); }
  bool contains(std::string_view module) const;
  // Whether a list has the whole name.
  bool names_whole(std::string_view module) const;

 private:
  std::optional<ModuleExpression> expression_;
  std::vector<std::string> names_;
};

// Which modules a LoRA adapter has pairs for, as PEFT reads adapter_config.json: target_modules without
// exclude_modules and, where target_modules is a list of ends, in the layers of layers_to_transform
// (numbered behind a name of layers_pattern, or behind any). What is not said, or "all-linear", excludes
// nothing.
class AdapterTargets {
 public:
  AdapterTargets() = default;
  AdapterTargets(const Json& config, const std::string& source);

  // Which key says, and how, that there is no pair for the module; empty where none does.
  std::string refusal(const std::string& module) const;
  // Whether target_modules names the module and nothing says that there is no pair for it.
  bool asks_for(const std::string& module) const { return !targets_.empty() && refusal(module).empty(); }

 private:
  ModuleChoice targets_, excluded_;
  std::vector<int64_t> layers_;             // empty: all
  std::vector<ModuleExpression> numbered_;  // whose match ends behind a layer's number and a dot
};

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_ADAPTER_TARGETS_H_
