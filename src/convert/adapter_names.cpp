// SPDX-License-Identifier: Apache-2.0
#include "convert/adapter_names.h"

#include <algorithm>
#include <string_view>

#include "architecture/wrapped_names.h"
#include "base/fail.h"

namespace nfloat {
namespace {

std::vector<std::string_view> split(std::string_view name) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return parts;
}

std::string join(const std::vector<std::string_view>& parts) {
  std::string text;
  for (const std::string_view part : parts) {
    if (!text.empty()) text += '.';
    text += part;
  }
  return text;
}

AdapterTensor parse_adapter_tensor(const std::string& name, const std::string& source) {
  const auto unknown = [&] {
    fail(
        ErrorCode::kUnsupported,
        "{}: tensor '{}' is not a part of a LoRA adapter that is understood: a pair lora_A and lora_B, of an "
        "embedding lora_embedding_A and _B, a lora_magnitude_vector, or a tensor of the base",
        source, name);
  };
  constexpr std::string_view kPrefix = "base_model.model.";
  std::string_view rest = name;
  while (rest.starts_with(kPrefix)) rest.remove_prefix(kPrefix.size());
  std::vector<std::string_view> parts = split(rest);
  const auto own = std::find_if(parts.begin(), parts.end(),
                                [](std::string_view part) { return part.starts_with("lora_"); });
  AdapterTensor result;
  if (own == parts.end()) {
    if (const auto saved = std::find(parts.begin(), parts.end(), "modules_to_save"); saved != parts.end()) {
      // "score.modules_to_save.default.weight"
      if (parts.end() - saved > 2) {
        result.adapter = saved[1];
        parts.erase(saved, saved + 2);
      } else {
        parts.erase(saved);
      }
    }
    std::erase(parts, "base_layer");
    if (parts.size() < 2 || std::any_of(parts.begin(), parts.end(), [](std::string_view part) {
          return part.empty() || part == "original_module" || part == "token_adapter" ||
                 part.starts_with("trainable_tokens");
        }))
      unknown();
    result.module = join(parts);
    return result;
  }
  result.module = join({parts.begin(), own});
  const std::string_view kind = *own;
  std::vector<std::string_view> behind(own + 1, parts.end());
  // "weight" or "bias"; parameters that are no module's have none.
  std::string_view parameter;
  if (!behind.empty() && (behind.back() == "weight" || behind.back() == "bias")) {
    parameter = behind.back();
    behind.pop_back();
  }
  if (behind.size() > 1 || result.module.empty() || std::find(parts.begin(), own, "base_layer") != own)
    unknown();
  if (!behind.empty()) result.adapter = behind[0];
  if (kind == "lora_A" && parameter == "weight") {
    result.role = AdapterRole::kDown;
  } else if (kind == "lora_B" && parameter == "weight") {
    result.role = AdapterRole::kUp;
  } else if (kind == "lora_B" && parameter == "bias") {
    result.role = AdapterRole::kUpBias;
  } else if (kind == "lora_embedding_A" && parameter.empty()) {
    result.role = AdapterRole::kEmbeddingDown;
  } else if (kind == "lora_embedding_B" && parameter.empty()) {
    result.role = AdapterRole::kEmbeddingUp;
  } else if (kind == "lora_magnitude_vector" && parameter != "bias") {
    result.role = AdapterRole::kMagnitude;
  } else {
    unknown();
  }
  return result;
}

}  // namespace

AdapterTensor AdapterTensors::read(const std::string& name) {
  AdapterTensor tensor = parse_adapter_tensor(name, source_);
  if (adapter_.empty()) adapter_ = tensor.adapter;
  if (!tensor.adapter.empty() && tensor.adapter != adapter_)
    fail(ErrorCode::kUnsupported, "{}: two adapters, '{}' and '{}'; one is read at a time", source_, adapter_,
         tensor.adapter);
  // Pairs of an embedding and of a matrix: a module is one of them.
  const AdapterRole part = tensor.role == AdapterRole::kEmbeddingDown ? AdapterRole::kDown
                           : tensor.role == AdapterRole::kEmbeddingUp ? AdapterRole::kUp
                                                                      : tensor.role;
  const auto [place, is_new] = parts_.emplace(std::pair(tensor.module, part), name);
  if (!is_new)
    fail(ErrorCode::kMalformedFile, "{}: '{}' and '{}' are the same part of '{}'", source_, place->second,
         name, tensor.module);
  return tensor;
}

BaseNames::BaseNames(const Checkpoint& base) : base_(base) {
  for (std::string& name : base.weight_names()) by_core_[core_name(name)].push_back(std::move(name));
}

std::string BaseNames::find(const std::string& tensor) const {
  if (base_.find(tensor) != nullptr) return tensor;
  const auto found = by_core_.find(core_name(tensor));
  if (found == by_core_.end()) return {};
  if (found->second.size() > 1)
    fail(ErrorCode::kMalformedFile, "{}: '{}' of the adapter may be '{}' or '{}'", base_.path(), tensor,
         found->second[0], found->second[1]);
  return found->second[0];
}

std::vector<std::string> linear_module_names(const Checkpoint& base, const TensorRoles& roles) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<std::string> modules;
  for (const std::string& name : base.weight_names()) {
    if (!name.ends_with(kWeight)) continue;
    const TensorRole role = roles.of(name, base.weight_shape(name));
    if (role == TensorRole::kLinear || role == TensorRole::kConv1D)
      modules.push_back(name.substr(0, name.size() - kWeight.size()));
  }
  return modules;
}

}  // namespace nfloat
