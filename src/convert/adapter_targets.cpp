// SPDX-License-Identifier: Apache-2.0
#include "convert/adapter_targets.h"

#include <algorithm>
#include <charconv>

#include "base/ascii.h"
#include "base/fail.h"

namespace nfloat {
namespace {

constexpr const char* kTargets = "target_modules";
constexpr const char* kExcluded = "exclude_modules";
constexpr const char* kLayers = "layers_to_transform";
constexpr const char* kPattern = "layers_pattern";
constexpr std::string_view kAllLinear = "all-linear";

bool is_absent(const Json* value) {
  return value == nullptr || value->is_null() || (value->is_array() && value->empty()) ||
         (value->is_string() && value->text().empty());
}

// A value, or each of a list.
std::vector<const Json*> listed(const Json& value) {
  std::vector<const Json*> result;
  if (!value.is_array()) return {&value};
  for (const Json& one : value) result.push_back(&one);
  return result;
}

bool is_all_linear(const Json& value) {
  return value.is_string() && equal_ignoring_case(value.text(), kAllLinear);
}

Expression compiled(const std::string& expression, const std::string& where) {
  try {
    return {expression, Expression::Text::kBytes};
  } catch (const ExpressionError& error) {
    fail(ErrorCode::kUnsupported, "{}: the expression does not compile: {} of {}", where, error.what(),
         expression.substr(0, 200));
  }
}

// The number that ends, with the dot behind it, where the match does.
int64_t number_before(std::string_view module, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && module[begin - 1] >= '0' && module[begin - 1] <= '9') --begin;
  int64_t number = -1;
  std::from_chars(module.data() + begin, module.data() + end - 1, number);
  return number;
}

}  // namespace

ModuleExpression::ModuleExpression(const std::string& expression, const std::string& source,
                                   const std::string& key)
    : where_(fmt::format("{}: \"{}\"", source, key)),
      expression_(compiled(fmt::format("\\A(?:{})", expression), where_)) {}

std::optional<Match> ModuleExpression::match(std::string_view module) const {
  try {
    Match match{};
    return expression_.find(module, 0, &match) ? std::optional(match) : std::nullopt;
  } catch (const ExpressionError& error) {
    fail(ErrorCode::kUnsupported, "{}: matching the expression to '{}' failed: {}", where_, module,
         error.what());
  }
}

ModuleChoice::ModuleChoice(const Json& value, const std::string& source, const std::string& key) {
  const std::string where = fmt::format("{}: \"{}\"", source, key);
  if (value.is_string()) {
    expression_.emplace(fmt::format("(?:{})\\z", value.text()), source, key);
    return;
  }
  if (!value.is_array())
    fail(ErrorCode::kMalformedFile, "{} is neither an expression nor a list of names", where);
  for (const Json& name : value) {
    if (!name.is_string()) fail(ErrorCode::kMalformedFile, "{} holds something that is not a name", where);
    names_.push_back(name.text());
  }
}

bool ModuleChoice::contains(std::string_view module) const {
  if (expression_) return expression_->match(module).has_value();
  return names_whole(module) || std::any_of(names_.begin(), names_.end(), [&](const std::string& name) {
           return module.ends_with(name) && module.size() > name.size() &&
                  module[module.size() - name.size() - 1] == '.';
         });
}

bool ModuleChoice::names_whole(std::string_view module) const {
  return std::find(names_.begin(), names_.end(), module) != names_.end();
}

AdapterTargets::AdapterTargets(const Json& config, const std::string& source) {
  if (const Json* found = config.find(kExcluded); !is_absent(found))
    excluded_ = ModuleChoice(*found, source, kExcluded);
  const Json* targets = config.find(kTargets);
  if (!is_absent(targets) && !is_all_linear(*targets)) targets_ = ModuleChoice(*targets, source, kTargets);
  const Json* layers = config.find(kLayers);
  if (is_absent(layers)) return;
  for (const Json* layer : listed(*layers)) {
    if (!layer->is_number_integer())
      fail(ErrorCode::kMalformedFile, "{}: \"{}\" is neither a number nor a list of numbers", source,
           kLayers);
    layers_.push_back(layer->get<int64_t>());
  }
  const Json* patterns = config.find(kPattern);
  if (is_absent(patterns)) {
    numbered_.emplace_back(".*\\.[^.]*\\.\\d+\\.", source, kPattern);
    return;
  }
  for (const Json* pattern : listed(*patterns)) {
    if (!pattern->is_string())
      fail(ErrorCode::kMalformedFile, "{}: \"{}\" is neither a name nor a list of names", source, kPattern);
    numbered_.emplace_back(fmt::format(".*\\.(?:{})\\.\\d+\\.", pattern->text()), source, kPattern);
  }
}

std::string AdapterTargets::refusal(const std::string& module) const {
  // Expressions may have been written for the name as the file has it.
  const std::string whole = fmt::format("base_model.model.{}", module);
  if (!excluded_.empty() && excluded_.contains(module)) return fmt::format("\"{}\" excludes it", kExcluded);
  if (!targets_.empty() && !targets_.contains(module) && !targets_.contains(whole))
    return fmt::format("\"{}\" does not name it", kTargets);
  if (layers_.empty() || targets_.names_whole(module)) return "";
  for (const ModuleExpression& expression : numbered_) {
    const std::optional<Match> match = expression.match(module);
    if (!match) continue;
    const int64_t layer = number_before(module, match->end);
    if (std::find(layers_.begin(), layers_.end(), layer) != layers_.end()) return "";
    return fmt::format("\"{}\" does not have layer {}", kLayers, layer);
  }
  return fmt::format("\"{}\" says which layers have pairs", kLayers);
}

}  // namespace nfloat
