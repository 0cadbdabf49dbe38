// SPDX-License-Identifier: Apache-2.0
#include "model/layer_reader.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/add_weights.h"
#include "model/expert_slices.h"
#include "nfloat/quantize.h"
#include "tensor/floats.h"
#include "tensor/transpose.h"

namespace nfloat {
namespace {

std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name) {
  return floats_of(checkpoint.view(name));
}

// A matrix in float32. It is of a floating-point type, as all that is not quantized.
Buffer decoded(const TensorView& view, int threads) {
  const int64_t cols = view.shape[1];
  Buffer memory(static_cast<size_t>(view.elements()) * sizeof(float));
  const size_t from = static_cast<size_t>(cols) * dtype_bytes(view.dtype);
  const size_t to = static_cast<size_t>(cols) * sizeof(float);
  parallel_for(view.shape[0], 16, threads, [&](int64_t begin, int64_t end) {
    const auto first = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
    convert_elements({view.dtype, {end - begin, cols}, view.bytes.subspan(first * from, count * from)},
                     DType::kF32, {memory.data() + first * to, count * to});
  });
  return memory;
}

Tensor transposed(const TensorView& view) {
  Tensor result(view.dtype, {view.shape[1], view.shape[0]});
  transpose(view.bytes.data(), result.bytes().data(), view.shape[0], view.shape[1], dtype_bytes(view.dtype));
  return result;
}

}  // namespace

LayerReader::LayerReader(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                         const ModelOptions& options, std::function<void(uint64_t)> on_read,
                         std::shared_ptr<Device> device)
    : checkpoint_(std::move(checkpoint)),
      config_(config),
      options_(options),
      on_read_(std::move(on_read)),
      device_(device ? std::move(device) : find_device(options.device)),
      family_(*find_family(config.family)),
      tensors_(family_.tensors),
      names_(checkpoint_->weight_names(), family_) {}

Constant LayerReader::placed(std::vector<float> values) const {
  Constant constant(std::move(values));
  device_->place(constant);
  return constant;
}

NormWeights LayerReader::read_norm(const std::string& name) const {
  const Tensor* other = options_.norms ? options_.norms(name) : nullptr;
  const TensorView stored = checkpoint_->view(name);
  if (other != nullptr && other->shape() != stored.shape)
    fail(ErrorCode::kInvalidArgument, "tensor '{}': replaced by {}, expected {}", name,
         other->shape().to_string(), stored.shape.to_string());
  NormWeights norm;
  std::vector<float> factors = floats_of(other != nullptr ? other->view() : stored);
  if (config_.norm_plus_one)
    for (float& factor : factors) factor += 1;
  norm.weight = placed(std::move(factors));
  if (config_.norm == NormKind::kLayer) norm.bias = placed(read_floats(*checkpoint_, bias_name(name)));
  return norm;
}

LayerWeights LayerReader::layer(int64_t layer) const {
  const ModelConfig& config = config_;
  LayerWeights weights;
  const auto name = [&](const char* pattern) { return names_(layer_tensor(pattern, layer)); };
  const auto norm = [&](const char* pattern) {
    return pattern == nullptr ? NormWeights{} : read_norm(name(pattern));
  };
  weights.attention_norm = norm(tensors_.attention_norm);
  weights.attention_post_norm = norm(tensors_.attention_post_norm);
  weights.query_key_value.give_heads(head_layout(config));
  for (const char* pattern : {tensors_.query_key_value, tensors_.query, tensors_.key, tensors_.value})
    if (pattern != nullptr) add(weights.query_key_value, name(pattern), config.attention_bias);
  weights.query_norm = norm(tensors_.query_norm);
  weights.key_norm = norm(tensors_.key_norm);
  if (tensors_.sinks != nullptr) weights.sinks = placed(read_floats(*checkpoint_, name(tensors_.sinks)));
  add(weights.output, name(tensors_.output), config.output_bias);
  weights.mlp_norm = norm(tensors_.mlp_norm);
  weights.mlp_post_norm = norm(tensors_.mlp_post_norm);
  if (config.layer(layer).experts) {
    read_experts(weights, layer);
  } else {
    for (const char* pattern : {tensors_.gate_up, tensors_.gate, tensors_.up})
      if (pattern != nullptr) add(weights.gate_up, name(pattern), config.mlp_bias);
    add(weights.down, name(tensors_.down), config.mlp_bias);
  }
  return weights;
}

void LayerReader::read_experts(LayerWeights& weights, int64_t layer) const {
  const ExpertsConfig& experts = config_.experts;
  const std::string router = names_(layer_tensor(tensors_.router, layer));
  const std::vector<float> bias =
      experts.bias ? read_floats(*checkpoint_, bias_name(router)) : std::vector<float>();
  // nfloat leaves routers plain; others may not.
  if (checkpoint_->is_quantized(router))
    add_weights(weights.router, *device_, checkpoint_->quantized(router), bias, options_.threads);
  else
    add_weights(weights.router, *device_, checkpoint_->view(router), bias, options_.threads);
  weights.experts.resize(static_cast<size_t>(experts.count));
  if (names_.experts() == ExpertLayout::kSingle && tensors_.expert_up != nullptr) {
    for (int64_t e = 0; e < experts.count; ++e) {
      ExpertWeights& expert = weights.experts[static_cast<size_t>(e)];
      add(expert.gate_up, names_(layer_tensor(tensors_.expert_gate, layer, e)), false);
      add(expert.gate_up, names_(layer_tensor(tensors_.expert_up, layer, e)), false);
      add(expert.down, names_(layer_tensor(tensors_.expert_down, layer, e)), false);
    }
    return;
  }
  read_fused(weights, &ExpertWeights::gate_up, names_(layer_tensor(tensors_.experts_gate_up, layer)));
  read_fused(weights, &ExpertWeights::down, names_(layer_tensor(tensors_.experts_down, layer)));
}

// One matrix of every expert of a layer, from one tensor.
void LayerReader::read_fused(LayerWeights& weights, LinearGroup ExpertWeights::*group,
                             const std::string& name) const {
  std::vector<float> biases;
  if (config_.experts.bias) biases = read_floats(*checkpoint_, bias_name(name));
  const size_t count = weights.experts.size();
  for (size_t e = 0; e < count; ++e) {
    const size_t outputs = biases.size() / count;
    const auto first = biases.begin() + static_cast<std::ptrdiff_t>(e * outputs);
    const std::vector<float> bias(first, first + static_cast<std::ptrdiff_t>(outputs));
    add_slice(weights.experts[e].*group, name, static_cast<int64_t>(e), bias);
  }
}

void LayerReader::add_slice(LinearGroup& group, const std::string& name, int64_t expert,
                            const std::vector<float>& bias) const {
  const int threads = options_.threads;
  if (names_.experts() == ExpertLayout::kMxfp4) {
    add_mxfp4_slice(group, *device_, checkpoint_->view(name + "_blocks"), checkpoint_->view(name + "_scales"),
                    expert, bias, threads);
  } else if (!checkpoint_->is_quantized(name)) {
    const TensorView view = slice_of(checkpoint_->view(name), expert);
    checkpoint_->prefetch(view);
    if (family_.experts_transposed)
      add_plain(group, name, transposed(view).view(), bias, nullptr);
    else
      add_plain(group, name, view, bias, release());
    finish(view);
  } else if (family_.experts_transposed) {
    const Tensor plain = decoded_slice(checkpoint_->quantized(name), expert);
    add_weights(group, *device_, transposed(plain.view()).view(), bias, threads);
  } else {
    add_quantized_slice(group, *device_, checkpoint_->quantized(name), expert, bias, threads);
  }
}

LinearGroup LayerReader::head() const {
  LinearGroup head;
  const std::string name = names_(config_.tied_head ? tensors_.embedding : tensors_.head);
  if (checkpoint_->is_quantized(name)) {
    add(head, name, false);
    return head;
  }
  const TensorView view = checkpoint_->view(name);
  if (options_.head == HeadFormat::kKeep)
    add_weights(head, *device_, view, {}, options_.threads, release());
  else if (options_.head == HeadFormat::kInt8)
    head.add(*device_, view, DenseMatrix::Storage::kInt8, {}, options_.threads, release());
  else {
    checkpoint_->prefetch(view);
    add_weights(head, *device_, quantize(view, make_codebook("nf4"), name), {}, options_.threads);
  }
  finish(view);
  return head;
}

LinearGroup LayerReader::project_in() const {
  LinearGroup group;
  add(group, names_(tensors_.project_in), false);
  return group;
}

LinearGroup LayerReader::project_out() const {
  LinearGroup group;
  add(group, names_(tensors_.project_out), false);
  return group;
}

std::vector<std::string> LayerReader::tensors_of(const LinearId& id) const {
  std::vector<const char*> patterns;
  const bool expert = id.expert >= 0;
  switch (id.role) {
    case LinearRole::kQueryKeyValue:
      patterns = {tensors_.query_key_value, tensors_.query, tensors_.key, tensors_.value};
      break;
    case LinearRole::kOutput:
      patterns = {tensors_.output};
      break;
    case LinearRole::kGateUp:
      if (expert)
        patterns = {tensors_.expert_gate, tensors_.expert_up};
      else
        patterns = {tensors_.gate_up, tensors_.gate, tensors_.up};
      break;
    case LinearRole::kDown:
      patterns = {expert ? tensors_.expert_down : tensors_.down};
      break;
    case LinearRole::kRouter:
      patterns = {tensors_.router};
      break;
  }
  std::vector<std::string> names;
  if (expert && names_.experts() != ExpertLayout::kSingle) return names;
  for (const char* pattern : patterns)
    if (pattern != nullptr)
      names.push_back(names_(layer_tensor(pattern, id.layer, std::max<int64_t>(0, id.expert))));
  return names;
}

std::vector<LayerReader::NormTensor> LayerReader::norms_of(int64_t layer) const {
  std::vector<NormTensor> norms;
  const auto add = [&](NormWeights LayerWeights::*norm, const char* pattern) {
    if (pattern != nullptr) norms.push_back({norm, names_(layer_tensor(pattern, layer))});
  };
  add(&LayerWeights::attention_norm, tensors_.attention_norm);
  add(&LayerWeights::attention_post_norm, tensors_.attention_post_norm);
  add(&LayerWeights::query_norm, tensors_.query_norm);
  add(&LayerWeights::key_norm, tensors_.key_norm);
  add(&LayerWeights::mlp_norm, tensors_.mlp_norm);
  add(&LayerWeights::mlp_post_norm, tensors_.mlp_post_norm);
  return norms;
}

NormWeights LayerReader::final_norm() const {
  return config_.final_norm ? read_norm(final_norm_name()) : NormWeights{};
}

Embedding LayerReader::embedding() const {
  const std::string name = names_(tensors_.embedding);
  if (checkpoint_->is_gguf()) return Embedding(checkpoint_, *checkpoint_->find(name));
  if (checkpoint_->is_quantized(name)) return Embedding(checkpoint_->quantized(name), checkpoint_);
  return Embedding(checkpoint_->view(name), checkpoint_);
}

Constant LayerReader::positions() const {
  return config_.position_rows > 0 ? placed(read_floats(*checkpoint_, names_(tensors_.positions)))
                                   : Constant();
}

void LayerReader::add(LinearGroup& group, const std::string& name, bool with_bias) const {
  const ModelOptions& options = options_;
  std::vector<float> bias;
  if (with_bias) bias = read_floats(*checkpoint_, bias_name(name));
  if (checkpoint_->is_quantized(name)) {
    const QuantizedView view = checkpoint_->quantized(name);
    add_weights(group, *device_, view, bias, options.threads, release());
    finish(view.codes);
    finish(view.absmax);
    return;
  }
  const TensorView view = checkpoint_->view(name);
  if (family_.stored_transposed || options.quantize || options.transform) checkpoint_->prefetch(view);
  if (family_.stored_transposed)
    add_plain(group, name, transposed(view).view(), bias, nullptr);
  else
    add_plain(group, name, view, bias, release());
  finish(view);
}

// A plain matrix of the layers, in the form that the options ask for.
void LayerReader::add_plain(LinearGroup& group, const std::string& name, const TensorView& view,
                            const std::vector<float>& bias, const LinearGroup::Release& release) const {
  const ModelOptions& options = options_;
  if (options.transform)
    add_transformed(group, name, view, bias);
  else if (options.quantize)
    add_weights(group, *device_, quantize(view, *options.quantize, name), bias, options.threads);
  else
    add_weights(group, *device_, view, bias, options.threads, release);
}

void LayerReader::add_transformed(LinearGroup& group, const std::string& name, const TensorView& view,
                                  const std::vector<float>& bias) const {
  const ModelOptions& options = options_;
  Buffer memory = decoded(view, options.threads);
  const std::span<float> values(reinterpret_cast<float*>(memory.data()),
                                static_cast<size_t>(view.elements()));
  options.transform(name, values, view.shape[0], view.shape[1]);
  const TensorView exact{DType::kF32, view.shape, std::as_bytes(values)};
  if (options.precision == Precision::kF32) return add_weights(group, *device_, exact, bias, options.threads);
  Tensor rounded(view.dtype, view.shape);
  convert_elements(exact, view.dtype, rounded.bytes());
  add_weights(group, *device_, rounded.view(), bias, options.threads);
}

// Drops pages that have been read while the rest of a matrix is packed.
LinearGroup::Release LayerReader::release() const {
  return [this](std::span<const uint8_t> done) {
    checkpoint_->release({DType::kU8, Shape{static_cast<int64_t>(done.size())}, std::as_bytes(done)});
  };
}

// Its pages are not needed any more.
void LayerReader::finish(const TensorView& view) const {
  checkpoint_->release(view);
  if (on_read_) on_read_(view.bytes.size());
}

QuantizedTensor LayerReader::quantize(const TensorView& view, const Codebook& codebook,
                                      const std::string& name) const {
  const ModelOptions& options = options_;
  try {
    return quantize_blockwise(view, codebook,
                              {.block_size = options.quantize_block_size,
                               .double_quantization = options.quantize_double,
                               .threads = options.threads});
  } catch (const Error& error) {
    fail(error.code(), "{}: {}: {}", checkpoint_->path(), name, error.what());
  }
}

}  // namespace nfloat
