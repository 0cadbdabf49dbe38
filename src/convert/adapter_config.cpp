// SPDX-License-Identifier: Apache-2.0
#include "convert/adapter_config.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string_view>

#include "base/ascii.h"
#include "base/fail.h"
#include "base/json.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

// How the adapter was trained, or where it comes from. The settings of a start (eva_config and so on) count
// only with that start, qalora_group_size with use_qalora.
constexpr std::string_view kHarmless[] = {"auto_mapping",   "base_model_name_or_path",
                                          "corda_config",   "eva_config",
                                          "inference_mode", "loftq_config",
                                          "lora_dropout",   "lora_dtype",
                                          "lora_ga_config", "lorap_emb_lr",
                                          "lorap_lr_ratio", "megatron_core",
                                          "peft_version",   "qalora_group_size",
                                          "revision",       "runtime_config",
                                          "task_type"};

// Read below.
constexpr std::string_view kRead[] = {"alpha_pattern",
                                      "bias",
                                      "ensure_weight_tying",
                                      "exclude_modules",
                                      "fan_in_fan_out",
                                      "init_lora_weights",
                                      "layers_pattern",
                                      "layers_to_transform",
                                      "lora_alpha",
                                      "lora_bias",
                                      "modules_to_save",
                                      "peft_type",
                                      "r",
                                      "rank_pattern",
                                      "target_modules",
                                      "use_dora",
                                      "use_rslora"};

struct Refusal {
  std::string_view key, reason;
};

constexpr Refusal kRefused[] = {
    {"alora_invocation_tokens",
     "an activated LoRA (aLoRA) acts on some tokens only, which no merged weight can"},
    {"arrow_config", "Arrow chooses between adapters token by token, which no merged weight can"},
    {"kasa_config", "KaSA takes singular values of the base away before the adapter is added"},
    {"layer_replication", "the model that it belongs to has layers several times; make that model first"},
    {"monteclora_config", "Monte Carlo LoRA adds samples, not one matrix"},
    {"target_parameters", "adapters of parameters that are not a module's weight are not merged"},
    {"trainable_token_indices", "single trained tokens of an embedding are not merged"},
    {"use_bdlora", "block-diagonal LoRA matrices are not merged"},
    {"use_qalora", "QALoRA adds to pooled inputs, which no weight in blocks of other sizes can"},
};

bool contains(std::span<const std::string_view> keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

bool is_off(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_string()) return value.text().empty();
  return value.is_null() || ((value.is_array() || value.is_object()) && value.empty());
}

// "a value" of a message, one line of bounded length.
std::string shown(const Json& value) {
  constexpr size_t kMost = 80;
  std::string text = value.dump(-1, Json::Invalid::kReplaceAndEscape);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

void check_keys(const Json& json, const std::string& source) {
  for (const auto& [key, value] : json.items()) {
    if (is_off(value) || contains(kHarmless, key) || contains(kRead, key)) continue;
    const auto* known =
        std::find_if(std::begin(kRefused), std::end(kRefused),
                     [&, &name = key](const Refusal& refusal) { return refusal.key == name; });
    if (known != std::end(kRefused))
      fail(ErrorCode::kUnsupported, "{}: \"{}\": {}", source, key, known->reason);
    fail(ErrorCode::kUnsupported, "{}: {} is {}: what that does to the weights is not understood", source,
         shown(Json(key)), shown(value));
  }
}

// Starts that leave the base as it is, or in whose place B A = 0 is added.
void check_start(const Json& start, const std::string& source) {
  if (start.is_null() || start.is_boolean()) return;
  static constexpr std::string_view kLeaveTheBase[] = {"gaussian", "eva",  "orthogonal",
                                                       "mica",     "true", "false"};
  static constexpr std::string_view kChangeTheBase[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
  const std::string name = start.is_string() ? in_lower_case(start.text()) : std::string();
  if (contains(kLeaveTheBase, name)) return;
  for (const std::string_view known : kChangeTheBase)
    if (name.starts_with(known))
      fail(ErrorCode::kUnsupported,
           "{}: \"init_lora_weights\" is {}: training began by changing the base, which this file does not "
           "hold; save the adapter with path_initial_model_for_weight_conversion, which makes a plain LoRA "
           "adapter of it",
           source, shown(start));
  fail(ErrorCode::kUnsupported,
       "{}: \"init_lora_weights\" is {}, which is not known: it may have changed the base", source,
       shown(start));
}

// The entries of an object whose names are modules or expressions for them.
std::vector<std::pair<std::string, const Json*>> pattern_of(const Json& json, const char* key,
                                                            const std::string& source) {
  std::vector<std::pair<std::string, const Json*>> result;
  const Json* pattern = json.find(key);
  if (pattern == nullptr || is_off(*pattern)) return result;
  if (!pattern->is_object()) fail(ErrorCode::kMalformedFile, "{}: \"{}\" is not an object", source, key);
  for (const auto& [module, value] : pattern->items()) result.emplace_back(module, &value);
  return result;
}

// Matches a module's whole name, or the part of it that begins behind a dot.
ModuleExpression behind_a_dot(const std::string& module, const std::string& source, const char* key) {
  return {fmt::format("(?:.*\\.)?(?:{})$", module), source, key};
}

// The value of the first entry that matches.
template <typename T>
T first_match(const std::vector<std::pair<ModuleExpression, T>>& entries, const std::string& module,
              T otherwise) {
  for (const auto& [expression, value] : entries)
    if (expression.match(module)) return value;
  return otherwise;
}

}  // namespace

AdapterConfig::AdapterConfig(const std::string& folder)
    : source_((fs::path(folder) / "adapter_config.json").string()) {
  if (fs::is_regular_file(folder))
    fail(ErrorCode::kInvalidArgument, "{}: is a file; a LoRA adapter is a folder that PEFT saved{}", folder,
         folder.ends_with(".gguf")
             ? " (nfloat convert FILE.gguf FOLDER --adapter-of MODEL makes one of a GGUF adapter)"
             : "");
  std::error_code none;
  if (fs::exists(source_, none) && !fs::is_regular_file(source_, none))  // a pipe would be waited for
    fail(ErrorCode::kIo, "{}: not a regular file", source_);
  std::ifstream file(source_, std::ios::binary);
  if (!file && errno != ENOENT && errno != ENOTDIR)
    fail(ErrorCode::kIo, "{}: cannot open: {}", source_, std::strerror(errno));
  if (!file)
    fail(ErrorCode::kNotFound, "{}: no such file; a LoRA adapter is a folder that PEFT saved", source_);
  constexpr size_t kMostBytes = size_t{1} << 20;
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  const auto malformed = [&](const std::string& what) {
    fail(ErrorCode::kMalformedFile, "{}: {}", source_, what);
  };
  const Json json = parse_json_object(text, source_, {.bytes = kMostBytes});
  const auto flag = [&](const char* key) {
    if (!json.contains(key) || json[key].is_null()) return false;
    if (!json[key].is_boolean()) malformed(fmt::format("\"{}\" is not true or false", key));
    return json[key].get<bool>();
  };
  if (json["peft_type"] != "LORA")
    fail(ErrorCode::kUnsupported, "{}: \"peft_type\" is {}; LORA is merged", source_,
         shown(json["peft_type"]));
  check_keys(json, source_);
  check_start(json["init_lora_weights"], source_);
  if (!json.contains("lora_alpha") || !json["lora_alpha"].is_number())
    malformed("\"lora_alpha\" is not a number");
  // What every weight is multiplied by.
  constexpr double kMostAlpha = 1e9;
  const auto alpha_of = [&](const Json& value, const std::string& what) {
    const auto alpha = value.get<double>();
    if (!(std::abs(alpha) <= kMostAlpha))
      malformed(fmt::format("{} is {}, expected a number of at most {:g}", what, alpha, kMostAlpha));
    return alpha;
  };
  alpha_ = alpha_of(json["lora_alpha"], "\"lora_alpha\"");
  by_root_ = flag("use_rslora");
  dora_ = flag("use_dora");
  bias_of_up_ = flag("lora_bias");
  fan_in_fan_out_ = flag("fan_in_fan_out");
  ties_weights_ = flag("ensure_weight_tying");
  // Trained biases are tensors of the adapter's file, and merged as such.
  if (const Json& bias = json["bias"];
      !bias.is_null() && bias != "none" && bias != "all" && bias != "lora_only")
    fail(ErrorCode::kUnsupported, "{}: \"bias\" is {}; none, all and lora_only are known", source_,
         shown(bias));
  if (const Json& modules = json["modules_to_save"]; !is_off(modules)) {
    if (!modules.is_array()) malformed("\"modules_to_save\" is not a list");
    for (const Json& module : modules) {
      if (!module.is_string()) malformed("\"modules_to_save\" holds something that is not a name");
      whole_modules_.push_back(module.text());
    }
  }
  for (const auto& [module, alpha] : pattern_of(json, "alpha_pattern", source_)) {
    if (!alpha->is_number()) malformed(fmt::format("\"alpha_pattern\" of '{}' is not a number", module));
    alphas_.emplace_back(behind_a_dot(module, source_, "alpha_pattern"),
                         alpha_of(*alpha, fmt::format("\"alpha_pattern\" of '{}'", module)));
  }
  const auto rank_of = [&](const Json& value, const std::string& what) {
    constexpr int64_t kMostRank = int64_t{1} << 31;
    if (!value.is_number_integer() || value.get<double>() < 1 ||
        value.get<double>() > static_cast<double>(kMostRank))
      malformed(fmt::format("{} is {}, expected a rank of 1 or more", what, shown(value)));
    return value.get<int64_t>();
  };
  if (!json["r"].is_null()) rank_ = rank_of(json["r"], "\"r\"");
  for (const auto& [module, rank] : pattern_of(json, "rank_pattern", source_))
    ranks_.emplace_back(behind_a_dot(module, source_, "rank_pattern"),
                        rank_of(*rank, fmt::format("\"rank_pattern\" of '{}'", module)));
  targets_ = AdapterTargets(json, source_);
}

double AdapterConfig::scale(const std::string& module, int64_t rank) const {
  if (const std::string reason = targets_.refusal(module); !reason.empty())
    fail(ErrorCode::kMalformedFile, "{}: {}, but the adapter has a pair for '{}'", source_, reason, module);
  if (const int64_t expected = first_match(ranks_, module, rank_); expected > 0 && expected != rank)
    fail(ErrorCode::kMalformedFile,
         "{}: the rank of '{}' is {} by \"r\" and \"rank_pattern\", its tensors have {}", source_, module,
         expected, rank);
  const double alpha = first_match(alphas_, module, alpha_);
  return alpha / (by_root_ ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
}

std::string AdapterConfig::missing(const std::vector<std::string>& without_pair,
                                   const std::string& file) const {
  std::vector<std::string> modules;
  for (const std::string& module : without_pair)
    if (targets_.asks_for(module)) modules.push_back(module);
  if (modules.empty()) return {};
  return fmt::format("{} asks for {}, {} has none", source_,
                     modules.size() == 1 ? fmt::format("a pair for '{}'", modules[0])
                                         : fmt::format("{} pairs, for '{}' to '{}'", modules.size(),
                                                       modules.front(), modules.back()),
                     file);
}

}  // namespace nfloat
