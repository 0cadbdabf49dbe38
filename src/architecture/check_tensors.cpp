// SPDX-License-Identifier: Apache-2.0
#include "architecture/check_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_set>

#include "architecture/families.h"
#include "architecture/tensor_roles.h"
#include "architecture/wrapped_names.h"
#include "base/counted.h"
#include "base/fail.h"

namespace nfloat {
namespace {

Shape exchanged(const Shape& shape) {
  return shape.rank() == 2 ? Shape({shape[1], shape[0]}) : Shape({shape[0], shape[2], shape[1]});
}

// A name of a weight of a layer, in its parts: the layer's number, and what is behind it.
struct LayerWeight {
  int64_t layer = 0;
  std::string_view part;
};
LayerWeight layer_weight(std::string_view name, size_t number) {
  LayerWeight result;
  size_t i = number;
  for (; i < name.size() && name[i] >= '0' && name[i] <= '9' && result.layer < (int64_t{1} << 32); ++i)
    result.layer = result.layer * 10 + (name[i] - '0');
  result.part = name.substr(i);
  return result;
}

// Names of weights that nothing asked for, of the model's layers and of modules that it reads. Layers beyond
// the last are left over where they are made as the others are; else they belong to something else
// (prediction of several tokens).
std::vector<std::string> left_over(const StoredTensors& stored, const ModelConfig& config,
                                   const TensorNames& names, const std::unordered_set<std::string>& known) {
  const std::string pattern = find_family(config.family)->tensors.output;
  const std::string layers = names(pattern.substr(0, pattern.find("{}")));
  const std::string head = names(find_family(config.family)->tensors.head);
  std::unordered_set<std::string_view> parts;
  std::unordered_set<std::string> modules{module_of(head)};
  for (const std::string& name : known) {
    modules.insert(module_of(name));
    if (name.starts_with(layers)) parts.insert(layer_weight(name, layers.size()).part);
  }
  std::vector<std::string> list;
  std::map<int64_t, std::vector<std::string>> beyond;
  std::set<int64_t> others;
  for (const std::string& name : stored.names) {
    if (known.contains(name) || is_buffer(name)) continue;
    if (!name.starts_with(layers)) {
      const bool tied = name == head;  // a copy of the embedding
      if (!tied && name.find('.') != std::string::npos && modules.contains(module_of(name)))
        list.push_back(name);
      continue;
    }
    const LayerWeight weight = layer_weight(name, layers.size());
    if (weight.layer < config.layers) {
      list.push_back(name);
      continue;
    }
    beyond[weight.layer].push_back(name);
    if (!parts.contains(weight.part)) others.insert(weight.layer);
  }
  for (auto& [layer, names_of_it] : beyond)
    if (!others.contains(layer)) list.insert(list.end(), names_of_it.begin(), names_of_it.end());
  return list;
}

}  // namespace

TensorNames::TensorNames(const std::vector<std::string>& stored, const Family& family)
    : prefix_(family.prefix), stored_(family.prefix), head_(family.tensors.head) {
  const auto has = [&](const std::string& name) {
    return std::find(stored.begin(), stored.end(), name) != stored.end();
  };
  const std::string embedding = std::string(family.tensors.embedding).substr(prefix_.size());
  std::vector<std::string> prefixes{prefix_};
  prefixes.insert(prefixes.end(), kPartPrefixes.begin(), kPartPrefixes.end());
  prefixes.emplace_back();
  for (const std::string& other : prefixes)
    if (has(other + embedding)) {
      stored_ = other;
      break;
    }
  if (!has(head_) && has(std::string(kHeadPrefix) + head_)) head_prefix_ = kHeadPrefix;
  if (family.tensors.experts_gate_up == nullptr) return;
  const std::string fused = family.tensors.experts_gate_up;
  const std::string end = fused.substr(fused.find("{}") + 2);  // behind the layer's number
  for (const std::string& name : stored) {
    if (name.ends_with(end)) experts_ = ExpertLayout::kFused;
    if (name.ends_with(end + "_blocks")) experts_ = ExpertLayout::kMxfp4;
  }
}

std::string TensorNames::operator()(const std::string& name) const {
  if (name == head_) return head_prefix_ + name;
  return name.starts_with(prefix_) ? stored_ + name.substr(prefix_.size()) : name;
}

void check_tensors(const StoredTensors& stored, const ModelConfig& config) {
  const TensorNames names(stored.names, *find_family(config.family));
  if (names.experts() == ExpertLayout::kMxfp4 &&
      (config.hidden % 32 != 0 || config.experts.intermediate % 32 != 0))
    fail(ErrorCode::kUnsupported, "{}: experts in MXFP4 of {} and {} columns, expected multiples of 32",
         stored.path, config.hidden, config.experts.intermediate);
  std::vector<std::string> missing, wrong;
  std::unordered_set<std::string> known;
  for (const ExpectedTensor& expected : expected_tensors(config, names.experts())) {
    const std::string name = names(expected.name);
    known.insert(name);
    const std::optional<StoredTensor> found = stored.find(name);
    if (!found) {
      missing.push_back(name);
      continue;
    }
    const bool quantized = expected.shape.rank() >= 2 && found->quantized;
    const Shape& shape = found->shape;
    const bool as_stored = expected.stored_transposed && (!quantized || shape.rank() == 3);
    const Shape right = as_stored ? exchanged(expected.shape) : expected.shape;
    if (shape != right)
      wrong.push_back(fmt::format("{} is {}, expected {}", name, shape.to_string(), right.to_string()));
    else if (expected.bytes && found->dtype != DType::kU8)
      wrong.push_back(fmt::format("{} is {}, expected U8", name, dtype_name(found->dtype)));
    else if (!expected.bytes && !quantized && !is_quantizable(found->dtype))
      wrong.push_back(fmt::format("{} is {}, expected F32, F16, BF16 or bitsandbytes 4-bit", name,
                                  dtype_name(found->dtype)));
  }
  const std::vector<std::string> extra = left_over(stored, config, names, known);
  std::vector<std::string> problems;
  if (!missing.empty())
    problems.push_back(fmt::format("{} that the configuration ({}) asks for {} missing: {}",
                                   counted(missing.size(), "tensor"), config.family,
                                   missing.size() == 1 ? "is" : "are", fmt::join(missing, ", ")));
  if (!wrong.empty())
    problems.push_back(fmt::format("{} {} with the configuration: {}", counted(wrong.size(), "tensor"),
                                   wrong.size() == 1 ? "disagrees" : "disagree", fmt::join(wrong, "; ")));
  if (!extra.empty())
    problems.push_back(fmt::format("{} {} left over, which {} of {} does not have: {}",
                                   counted(extra.size(), "tensor"), extra.size() == 1 ? "is" : "are",
                                   config.family, counted(static_cast<uint64_t>(config.layers), "layer"),
                                   fmt::join(extra, ", ")));
  if (!problems.empty()) fail(ErrorCode::kMalformedFile, "{}: {}", stored.path, fmt::join(problems, "; "));
}

}  // namespace nfloat
