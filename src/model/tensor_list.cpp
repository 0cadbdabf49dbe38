// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>

#include "base/fail.h"
#include "model/families.h"
#include "model/loader.h"

namespace nfloat {
namespace {

class List {
 public:
  List(const ModelConfig& config, ExpertLayout layout)
      : config_(config), family_(*find_family(config.family)), names_(family_.tensors), layout_(layout) {}

  std::vector<ExpectedTensor> run() && {
    const ModelConfig& config = config_;
    const int64_t embedding = config.embedding_size > 0 ? config.embedding_size : config.hidden;
    list_.push_back({names_.embedding, {config.vocabulary, embedding}});
    if (config.position_rows > 0) list_.push_back({names_.positions, {config.position_rows, config.hidden}});
    if (config.embedding_size > 0) list_.push_back({names_.project_in, {config.hidden, embedding}});
    for (layer_ = 0; layer_ < config.layers; ++layer_) {
      attention();
      if (config.layer(layer_).experts)
        experts();
      else
        mlp();
    }
    layer_ = 0;
    if (config.final_norm) norm(names_.final_norm, config.hidden);
    if (config.embedding_size > 0) list_.push_back({names_.project_out, {embedding, config.hidden}});
    if (!config.tied_head) list_.push_back({names_.head, {config.vocabulary, embedding}});
    return std::move(list_);
  }

 private:
  void attention() {
    const ModelConfig& config = config_;
    norm(names_.attention_norm, config.hidden);
    if (names_.query_key_value != nullptr) {
      matrix(names_.query_key_value, config.query_size() + 2 * config.kv_size(), config.hidden,
             config.attention_bias);
    } else {
      matrix(names_.query, config.query_size(), config.hidden, config.attention_bias);
      matrix(names_.key, config.kv_size(), config.hidden, config.attention_bias);
      matrix(names_.value, config.kv_size(), config.hidden, config.attention_bias);
    }
    const bool whole = config.query_norm == QueryNorm::kWhole;
    norm(names_.query_norm, whole ? config.query_size() : config.head_dim);
    norm(names_.key_norm, whole ? config.kv_size() : config.head_dim);
    if (names_.sinks != nullptr) add(names_.sinks, {config.heads});
    matrix(names_.output, config.hidden, config.query_size(), config.output_bias);
    norm(names_.attention_post_norm, config.hidden);
    norm(names_.mlp_norm, config.hidden);
    norm(names_.mlp_post_norm, config.hidden);
  }

  void mlp() {
    const ModelConfig& config = config_;
    if (names_.gate_up != nullptr) {
      matrix(names_.gate_up, 2 * config.intermediate, config.hidden, config.mlp_bias);
    } else {
      if (names_.gate != nullptr) matrix(names_.gate, config.intermediate, config.hidden, config.mlp_bias);
      matrix(names_.up, config.intermediate, config.hidden, config.mlp_bias);
    }
    matrix(names_.down, config.hidden, config.intermediate, config.mlp_bias);
  }

  void experts() {
    const ExpertsConfig& experts = config_.experts;
    const int64_t hidden = config_.hidden, width = experts.intermediate;
    add(names_.router, {experts.count, hidden});
    if (experts.bias) add(bias_name(names_.router).c_str(), {experts.count});
    if (layout_ != ExpertLayout::kSingle || names_.expert_up == nullptr) {
      fused(names_.experts_gate_up, 2 * width, hidden);
      fused(names_.experts_down, hidden, width);
      return;
    }
    for (int64_t e = 0; e < experts.count; ++e) {
      list_.push_back({layer_tensor(names_.expert_gate, layer_, e), {width, hidden}});
      list_.push_back({layer_tensor(names_.expert_up, layer_, e), {width, hidden}});
      list_.push_back({layer_tensor(names_.expert_down, layer_, e), {hidden, width}});
    }
  }

  void fused(const char* pattern, int64_t outputs, int64_t inputs) {
    const int64_t count = config_.experts.count;
    const std::string name = layer_tensor(pattern, layer_);
    if (layout_ == ExpertLayout::kMxfp4) {
      list_.push_back({name + "_blocks", {count, outputs, (inputs + 31) / 32, 16}, false, true});
      list_.push_back({name + "_scales", {count, outputs, (inputs + 31) / 32}, false, true});
    } else {
      list_.push_back({name, {count, outputs, inputs}, family_.experts_transposed});
    }
    if (config_.experts.bias) list_.push_back({bias_name(name), {count, outputs}});
  }

  void add(const char* pattern, Shape shape) { list_.push_back({layer_tensor(pattern, layer_), shape}); }

  void norm(const char* pattern, int64_t width) {
    if (pattern == nullptr) return;
    add(pattern, {width});
    if (config_.norm == NormKind::kLayer) list_.push_back({bias_name(list_.back().name), {width}});
  }

  void matrix(const char* pattern, int64_t outputs, int64_t inputs, bool bias) {
    list_.push_back({layer_tensor(pattern, layer_), {outputs, inputs}, family_.stored_transposed});
    if (bias) list_.push_back({bias_name(list_.back().name), {outputs}});
  }

  const ModelConfig& config_;
  const Family& family_;
  const FamilyTensors& names_;
  ExpertLayout layout_;
  int64_t layer_ = 0;
  std::vector<ExpectedTensor> list_;
};

Shape exchanged(const Shape& shape) {
  return shape.rank() == 2 ? Shape({shape[1], shape[0]}) : Shape({shape[0], shape[2], shape[1]});
}

// Masks and frequencies that old checkpoints carry along.
bool is_buffer(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("attn.bias") ||
         name.ends_with("attn.masked_bias") || name.ends_with("attention.bias") ||
         name.ends_with("attention.masked_bias");
}

// Names of weights of the model's layers that nothing asked for.
std::vector<std::string> left_over(const Checkpoint& checkpoint, const ModelConfig& config,
                                   const TensorNames& names, const std::unordered_set<std::string>& known) {
  const std::string pattern = find_family(config.family)->tensors.output;
  const std::string layers = names(pattern.substr(0, pattern.find("{}")));
  std::vector<std::string> list;
  for (const std::string& name : checkpoint.weight_names()) {
    if (!name.starts_with(layers) || known.contains(name) || is_buffer(name)) continue;
    // Layers beyond the last belong to something else (prediction of several tokens).
    int64_t layer = 0;
    for (size_t i = layers.size();
         i < name.size() && name[i] >= '0' && name[i] <= '9' && layer < config.layers; ++i)
      layer = layer * 10 + (name[i] - '0');
    if (layer < config.layers) list.push_back(name);
  }
  return list;
}

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, ExpertLayout layout) {
  return List(config, layout).run();
}

TensorNames::TensorNames(const Checkpoint& checkpoint, const Family& family)
    : prefix_(family.prefix), stored_(family.prefix), head_(family.tensors.head) {
  const std::string embedding = std::string(family.tensors.embedding).substr(prefix_.size());
  for (const std::string& other :
       {prefix_, std::string("language_model.model."), std::string("model.language_model."), std::string()})
    if (checkpoint.find(other + embedding) != nullptr) {
      stored_ = other;
      break;
    }
  if (checkpoint.find(head_) == nullptr && checkpoint.find("language_model." + head_) != nullptr)
    head_prefix_ = "language_model.";
  if (family.tensors.experts_gate_up == nullptr) return;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (tensor.name.ends_with("experts.gate_up_proj")) experts_ = ExpertLayout::kFused;
    if (tensor.name.ends_with("experts.gate_up_proj_blocks")) experts_ = ExpertLayout::kMxfp4;
  }
}

std::string TensorNames::operator()(const std::string& name) const {
  if (name == head_) return head_prefix_ + name;
  return name.starts_with(prefix_) ? stored_ + name.substr(prefix_.size()) : name;
}

void check_tensors(const Checkpoint& checkpoint, const ModelConfig& config) {
  const TensorNames names(checkpoint, *find_family(config.family));
  if (names.experts() == ExpertLayout::kMxfp4 &&
      (config.hidden % 32 != 0 || config.experts.intermediate % 32 != 0))
    fail(ErrorCode::kUnsupported, "{}: experts in MXFP4 of {} and {} columns, expected multiples of 32",
         checkpoint.path(), config.hidden, config.experts.intermediate);
  std::vector<std::string> missing, wrong;
  std::unordered_set<std::string> known;
  for (const ExpectedTensor& expected : expected_tensors(config, names.experts())) {
    const std::string name = names(expected.name);
    known.insert(name);
    const TensorInfo* info = checkpoint.find(name);
    if (info == nullptr) {
      missing.push_back(name);
      continue;
    }
    const bool quantized = expected.shape.rank() >= 2 && checkpoint.is_quantized(name);
    const Shape shape = quantized ? checkpoint.weight_shape(name) : info->shape;
    const bool as_stored = expected.stored_transposed && (!quantized || shape.rank() == 3);
    const Shape right = as_stored ? exchanged(expected.shape) : expected.shape;
    if (shape != right)
      wrong.push_back(fmt::format("{} is {}, expected {}", name, shape.to_string(), right.to_string()));
    else if (expected.bytes && info->dtype != DType::kU8)
      wrong.push_back(fmt::format("{} is {}, expected U8", name, dtype_name(info->dtype)));
    else if (!expected.bytes && !quantized && !is_quantizable(info->dtype))
      wrong.push_back(fmt::format("{} is {}, expected F32, F16, BF16 or bitsandbytes 4-bit", name,
                                  dtype_name(info->dtype)));
  }
  const std::vector<std::string> extra = left_over(checkpoint, config, names, known);
  std::vector<std::string> problems;
  if (!missing.empty())
    problems.push_back(fmt::format("{} tensors that config.json ({}) asks for are missing: {}",
                                   missing.size(), config.family, fmt::join(missing, ", ")));
  if (!wrong.empty())
    problems.push_back(
        fmt::format("{} tensors disagree with config.json: {}", wrong.size(), fmt::join(wrong, "; ")));
  if (!extra.empty())
    problems.push_back(fmt::format("{} tensors of the layers are left over, which {} does not have: {}",
                                   extra.size(), config.family, fmt::join(extra, ", ")));
  if (!problems.empty())
    fail(ErrorCode::kMalformedFile, "{}: {}", checkpoint.path(), fmt::join(problems, "; "));
}

}  // namespace nfloat
