// SPDX-License-Identifier: Apache-2.0
#include "architecture/tensor_list.h"

#include "architecture/families.h"

namespace nfloat {
namespace {

class List {
 public:
  List(const ModelConfig& config, ExpertLayout layout)
      : config_(config), family_(*find_family(config.family)), names_(family_.tensors), layout_(layout) {}

  std::vector<ExpectedTensor> run() && {
    const ModelConfig& config = config_;
    const int64_t embedding = config.embedding_size > 0 ? config.embedding_size : config.hidden;
    put(names_.embedding, {config.vocabulary, embedding}, TensorRole::kEmbedding);
    if (config.position_rows > 0)
      put(names_.positions, {config.position_rows, config.hidden}, TensorRole::kEmbedding);
    if (config.embedding_size > 0) put(names_.project_in, {config.hidden, embedding}, TensorRole::kLinear);
    for (layer_ = 0; layer_ < config.layers; ++layer_) {
      attention();
      if (config.layer(layer_).experts)
        experts();
      else
        mlp();
    }
    layer_ = 0;
    if (config.final_norm) norm(names_.final_norm, config.hidden);
    if (config.embedding_size > 0) put(names_.project_out, {embedding, config.hidden}, TensorRole::kLinear);
    if (!config.tied_head) put(names_.head, {config.vocabulary, embedding}, TensorRole::kHead);
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
    if (names_.sinks != nullptr) add(names_.sinks, {config.heads}, TensorRole::kNorm);
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
    add(names_.router, {experts.count, hidden}, TensorRole::kRouter);
    if (experts.bias) add(bias_name(names_.router).c_str(), {experts.count}, TensorRole::kNorm);
    if (layout_ != ExpertLayout::kSingle || names_.expert_up == nullptr) {
      fused(names_.experts_gate_up, 2 * width, hidden);
      fused(names_.experts_down, hidden, width);
      return;
    }
    for (int64_t e = 0; e < experts.count; ++e) {
      put(layer_tensor(names_.expert_gate, layer_, e), {width, hidden}, TensorRole::kLinear);
      put(layer_tensor(names_.expert_up, layer_, e), {width, hidden}, TensorRole::kLinear);
      put(layer_tensor(names_.expert_down, layer_, e), {hidden, width}, TensorRole::kLinear);
    }
  }

  void fused(const char* pattern, int64_t outputs, int64_t inputs) {
    const int64_t count = config_.experts.count;
    const std::string name = layer_tensor(pattern, layer_);
    if (layout_ == ExpertLayout::kMxfp4) {
      list_.push_back(
          {name + "_blocks", {count, outputs, (inputs + 31) / 32, 16}, false, true, TensorRole::kExpert});
      list_.push_back(
          {name + "_scales", {count, outputs, (inputs + 31) / 32}, false, true, TensorRole::kExpert});
    } else {
      list_.push_back(
          {name, {count, outputs, inputs}, family_.experts_transposed, false, TensorRole::kExpert});
    }
    if (config_.experts.bias) put(bias_name(name), {count, outputs}, TensorRole::kOther);
  }

  void put(std::string name, Shape shape, TensorRole role) {
    list_.push_back({std::move(name), std::move(shape), false, false, role});
  }

  void add(const char* pattern, Shape shape, TensorRole role) {
    put(layer_tensor(pattern, layer_), std::move(shape), role);
  }

  void norm(const char* pattern, int64_t width) {
    if (pattern == nullptr) return;
    add(pattern, {width}, TensorRole::kNorm);
    if (config_.norm == NormKind::kLayer) put(bias_name(list_.back().name), {width}, TensorRole::kNorm);
  }

  void matrix(const char* pattern, int64_t outputs, int64_t inputs, bool bias) {
    // Plain matrices that lie transposed are those of Conv1D modules.
    const bool conv1d = family_.stored_transposed;
    list_.push_back({layer_tensor(pattern, layer_),
                     {outputs, inputs},
                     conv1d,
                     false,
                     conv1d ? TensorRole::kConv1D : TensorRole::kLinear});
    if (bias) put(bias_name(list_.back().name), {outputs}, TensorRole::kNorm);
  }

  const ModelConfig& config_;
  const Family& family_;
  const FamilyTensors& names_;
  ExpertLayout layout_;
  int64_t layer_ = 0;
  std::vector<ExpectedTensor> list_;
};

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, ExpertLayout layout) {
  return List(config, layout).run();
}

}  // namespace nfloat
