// SPDX-License-Identifier: Apache-2.0
#include "nfloat/synthetic.h"

#include <cmath>
#include <cstring>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/add_weights.h"
#include "model/loader.h"
#include "model/model_state.h"
#include "nfloat/quantize.h"

namespace nfloat {
namespace {

// splitmix64: one multiplication chain a word, all that speed measurements ask for.
class Random {
 public:
  explicit Random(uint64_t seed) noexcept : state_(seed) {}
  uint64_t next() noexcept {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  void fill(std::vector<uint8_t>& bytes) noexcept {
    for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
      const uint64_t word = next();
      std::memcpy(bytes.data() + i, &word, std::min(sizeof word, bytes.size() - i));
    }
  }

 private:
  uint64_t state_;
};

class Builder {
 public:
  Builder(const ModelConfig& config, const SyntheticOptions& options)
      : state_(std::make_shared<Model::State>(device_of(options.model))), random_(options.seed) {
    state_->config = config;
    state_->options = options.model;
    state_->options.threads = thread_count(options.model.threads);
    state_->options.device = state_->device->name();
    if (!state_->options.quantize) {
      state_->options.quantize = make_codebook("nf4");
      state_->options.quantize_double = true;
    }
    double squares = 0;
    for (float level : state_->options.quantize->levels)
      squares += static_cast<double>(level) * static_cast<double>(level);
    level_rms_ = std::sqrt(squares / static_cast<double>(state_->options.quantize->levels.size()));
  }

  std::shared_ptr<const Model::State> run() {
    const ModelConfig& config = state_->config;
    const int threads = state_->options.threads;
    check_available_memory(static_cast<uint64_t>(config.parameters()) * 5 / 8,
                           "a synthetic model of this shape", state_->device.get());
    const auto table = std::make_shared<const QuantizedTensor>(matrix(config.vocabulary, config.hidden));
    state_->embedding = Embedding(view(*table), table);
    const std::vector<float> ones(static_cast<size_t>(config.hidden), 1.0f);
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      if (state_->options.progress)
        state_->options.progress(static_cast<uint64_t>(layer), static_cast<uint64_t>(config.layers));
      LayerWeights weights;
      weights.attention_norm.weight = placed(ones);
      weights.mlp_norm.weight = placed(ones);
      weights.query_key_value.give_heads(head_layout(config));
      for (int64_t outputs : {config.query_size(), config.kv_size(), config.kv_size()})
        add(weights.query_key_value, matrix(outputs, config.hidden));
      add(weights.output, matrix(config.hidden, config.query_size()));
      if (!config.layer(layer).experts) {
        feed_forward(weights.gate_up, weights.down, config.intermediate);
      } else {
        add_weights(weights.router, *state_->device, plain_matrix(config.experts.count, config.hidden).view(),
                    {}, threads);
        weights.experts.resize(static_cast<size_t>(config.experts.count));
        for (ExpertWeights& expert : weights.experts)
          feed_forward(expert.gate_up, expert.down, config.experts.intermediate);
      }
      state_->layers.push_back(std::move(weights));
    }
    state_->final_norm.weight = placed(ones);
    add(state_->head, config.tied_head ? *table : matrix(config.vocabulary, config.hidden));
    count_memory(*state_);
    state_->options.progress = nullptr;
    return std::move(state_);
  }

 private:
  void add(LinearGroup& group, const QuantizedTensor& matrix) {
    add_weights(group, *state_->device, matrix, {}, state_->options.threads);
  }
  Constant placed(std::vector<float> values) {
    Constant constant(std::move(values));
    state_->device->place(constant);
    return constant;
  }

  void feed_forward(LinearGroup& gate_up, LinearGroup& down, int64_t width) {
    const int64_t hidden = state_->config.hidden;
    for (int i = 0; i < 2; ++i) add(gate_up, matrix(width, hidden));
    add(down, matrix(hidden, width));
  }

  // Uniform and of unit size after the product: routers.
  Tensor plain_matrix(int64_t outputs, int64_t inputs) {
    Tensor tensor(DType::kF32, {outputs, inputs});
    const float size = 2 * std::sqrt(3.0f / static_cast<float>(inputs));
    for (int64_t i = 0; i < tensor.elements(); ++i)
      tensor.data<float>()[i] = size * (static_cast<float>(random_.next() >> 40) * 0x1p-24f - 0.5f);
    return tensor;
  }

  // Random codes with scales that keep the size of what is multiplied.
  QuantizedTensor matrix(int64_t outputs, int64_t inputs) {
    QuantizedTensor tensor;
    tensor.codebook = *state_->options.quantize;
    tensor.dtype = DType::kBF16;
    tensor.shape = {outputs, inputs};
    tensor.block_size = state_->options.quantize_block_size;
    tensor.codes.resize(static_cast<size_t>((tensor.elements() + 1) / 2));
    random_.fill(tensor.codes);
    const auto scale = static_cast<float>(1 / (level_rms_ * std::sqrt(static_cast<double>(inputs))));
    const auto blocks = static_cast<size_t>(tensor.blocks());
    if (state_->options.quantize_double) {
      tensor.nested.codes.resize(blocks);
      random_.fill(tensor.nested.codes);
      tensor.nested.absmax.assign((blocks + kNestedBlockSize - 1) / kNestedBlockSize, scale / 4);
      tensor.nested.offset = scale;
    } else {
      tensor.scales.resize(blocks);
      for (float& value : tensor.scales)
        value = scale * (0.75f + static_cast<float>(random_.next() >> 40) * 0x1p-25f);
    }
    return tensor;
  }

  static TensorView bytes_view(const std::vector<uint8_t>& bytes) {
    return {DType::kU8, {static_cast<int64_t>(bytes.size())}, std::as_bytes(std::span(bytes))};
  }
  static TensorView floats_view(const std::vector<float>& floats) {
    return {DType::kF32, {static_cast<int64_t>(floats.size())}, std::as_bytes(std::span(floats))};
  }

  static QuantizedView view(const QuantizedTensor& tensor) {
    QuantizedView result;
    result.quant_type = tensor.codebook.name;
    result.dtype = tensor.dtype;
    result.shape = tensor.shape;
    result.block_size = tensor.block_size;
    result.codes = bytes_view(tensor.codes);
    result.quant_map = floats_view(tensor.codebook.levels);
    result.nested = tensor.double_quantized();
    if (!result.nested) {
      result.absmax = floats_view(tensor.scales);
      return result;
    }
    result.absmax = bytes_view(tensor.nested.codes);
    result.nested_offset = tensor.nested.offset;
    result.nested_absmax = floats_view(tensor.nested.absmax);
    result.nested_quant_map = floats_view(dynamic_codebook().levels);
    return result;
  }

  std::shared_ptr<Model::State> state_;
  Random random_;
  double level_rms_;
};

}  // namespace

ModelConfig synthetic_config(std::string_view shape) {
  ModelConfig config;
  config.family = "llama";
  config.head_dim = 64;
  config.heads = 32;
  config.kv_heads = 8;
  config.context = 131072;
  config.norm_epsilon = 1e-5;
  config.rope.theta = 500000;
  if (shape == "1b") {
    config.layers = 16;
    config.hidden = 2048;
    config.intermediate = 8192;
    config.vocabulary = 32000;
    config.tied_head = true;
  } else if (shape == "8b") {
    config.layers = 32;
    config.hidden = 4096;
    config.intermediate = 14336;
    config.head_dim = 128;
    config.vocabulary = 128256;
  } else if (shape == "moe") {
    config.family = "mixtral";
    config.layers = 16;
    config.hidden = 2048;
    config.intermediate = config.experts.intermediate = 3072;
    config.experts.count = 8;
    config.experts.chosen = 2;
    config.vocabulary = 32000;
    config.tied_head = true;
  } else {
    fail(ErrorCode::kInvalidArgument, "the synthetic shape \"{}\" is not one of 1b, 8b, moe", shape);
  }
  return config;
}

Model synthetic_model(const ModelConfig& config, const SyntheticOptions& options) {
  return Model(Builder(config, options).run());
}

}  // namespace nfloat
