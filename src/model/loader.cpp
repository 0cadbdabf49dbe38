// SPDX-License-Identifier: Apache-2.0
#include "model/loader.h"

#include <cstdio>
#include <cstring>

#include "architecture/families.h"
#include "base/fail.h"
#include "base/parallel.h"
#include "checkpoint/foreign.h"
#include "model/expert_slices.h"
#include "model/model_state.h"
#include "nfloat/quantize.h"

namespace nfloat {
namespace {

std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.view(name);
  std::vector<float> values(static_cast<size_t>(view.elements()));
  convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
  return values;
}

Tensor transposed(const TensorView& view) {
  Tensor result(view.dtype, {view.shape[1], view.shape[0]});
  const int64_t rows = view.shape[0], cols = view.shape[1];
  const size_t size = dtype_bytes(view.dtype);
  const std::byte* from = view.bytes.data();
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t col = 0; col < cols; ++col, from += size)
      std::memcpy(result.bytes().data() + static_cast<size_t>(col * rows + row) * size, from, size);
  return result;
}

class Loader {
 public:
  Loader(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config, const ModelOptions& options)
      : checkpoint_(std::move(checkpoint)),
        family_(*find_family(config.family)),
        tensors_(family_.tensors),
        names_(*checkpoint_, family_) {
    state_->checkpoint = checkpoint_;
    state_->config = config;
    state_->options = options;
    state_->options.threads = thread_count(options.threads);
    for (const TensorInfo& info : checkpoint_->tensors()) total_bytes_ += info.bytes;
  }

  std::shared_ptr<const Model::State> run() {
    const ModelConfig& config = state_->config;
    read_embedding();
    if (config.position_rows > 0) {
      state_->positions = read_floats(*checkpoint_, names_(tensors_.positions));
      state_->position_offset = family_.position_offset;
    }
    if (config.embedding_size > 0) {
      add(state_->project_in, names_(tensors_.project_in), false);
      add(state_->project_out, names_(tensors_.project_out), false);
    }
    for (int64_t layer = 0; layer < config.layers; ++layer) read_layer(layer);
    if (config.final_norm) state_->final_norm = read_norm(names_(tensors_.final_norm));
    read_head();
    count_memory(*state_);
    return std::move(state_);
  }

 private:
  void read_embedding() {
    const std::string name = names_(tensors_.embedding);
    if (checkpoint_->is_gguf())
      state_->embedding = Embedding(checkpoint_, *checkpoint_->find(name));
    else if (checkpoint_->is_quantized(name))
      state_->embedding = Embedding(checkpoint_->quantized(name), checkpoint_);
    else
      state_->embedding = Embedding(checkpoint_->view(name), checkpoint_);
  }

  NormWeights read_norm(const std::string& name) const {
    NormWeights norm{read_floats(*checkpoint_, name), {}};
    if (state_->config.norm == NormKind::kLayer) norm.bias = read_floats(*checkpoint_, bias_name(name));
    if (state_->config.norm_plus_one)
      for (float& weight : norm.weight) weight += 1;
    return norm;
  }

  void read_layer(int64_t layer) {
    const ModelConfig& config = state_->config;
    LayerWeights weights;
    const auto name = [&](const char* pattern) { return names_(layer_tensor(pattern, layer)); };
    const auto norm = [&](const char* pattern) {
      return pattern == nullptr ? NormWeights{} : read_norm(name(pattern));
    };
    weights.attention_norm = norm(tensors_.attention_norm);
    weights.attention_post_norm = norm(tensors_.attention_post_norm);
    for (const char* pattern : {tensors_.query_key_value, tensors_.query, tensors_.key, tensors_.value})
      if (pattern != nullptr) add(weights.query_key_value, name(pattern), config.attention_bias);
    weights.query_norm = norm(tensors_.query_norm);
    weights.key_norm = norm(tensors_.key_norm);
    if (tensors_.sinks != nullptr) weights.sinks = read_floats(*checkpoint_, name(tensors_.sinks));
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
    state_->layers.push_back(std::move(weights));
  }

  void read_experts(LayerWeights& weights, int64_t layer) {
    const ExpertsConfig& experts = state_->config.experts;
    const std::string router = names_(layer_tensor(tensors_.router, layer));
    const std::vector<float> bias =
        experts.bias ? read_floats(*checkpoint_, bias_name(router)) : std::vector<float>();
    // nfloat leaves routers plain; others may not.
    if (checkpoint_->is_quantized(router))
      weights.router.add(checkpoint_->quantized(router), bias, state_->options.threads, nullptr);
    else
      weights.router.add(checkpoint_->view(router), bias, state_->options.threads);
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
  void read_fused(LayerWeights& weights, LinearGroup ExpertWeights::*group, const std::string& name) {
    std::vector<float> biases;
    if (state_->config.experts.bias) biases = read_floats(*checkpoint_, bias_name(name));
    const size_t count = weights.experts.size();
    for (size_t e = 0; e < count; ++e) {
      const size_t outputs = biases.size() / count;
      const auto first = biases.begin() + static_cast<std::ptrdiff_t>(e * outputs);
      const std::vector<float> bias(first, first + static_cast<std::ptrdiff_t>(outputs));
      add_slice(weights.experts[e].*group, name, static_cast<int64_t>(e), bias);
    }
  }

  void add_slice(LinearGroup& group, const std::string& name, int64_t expert,
                 const std::vector<float>& bias) {
    const int threads = state_->options.threads;
    if (names_.experts() == ExpertLayout::kMxfp4) {
      add_mxfp4_slice(group, checkpoint_->view(name + "_blocks"), checkpoint_->view(name + "_scales"), expert,
                      bias, threads);
    } else if (!checkpoint_->is_quantized(name)) {
      const TensorView view = slice_of(checkpoint_->view(name), expert);
      if (family_.experts_transposed)
        add_plain(group, name, transposed(view).view(), bias, nullptr);
      else
        add_plain(group, name, view, bias, release());
      finish(view);
    } else if (family_.experts_transposed) {
      const Tensor plain = decoded_slice(checkpoint_->quantized(name), expert);
      group.add(transposed(plain.view()).view(), bias, threads);
    } else {
      add_quantized_slice(group, checkpoint_->quantized(name), expert, bias, threads);
    }
  }

  void read_head() {
    const std::string name = names_(state_->config.tied_head ? tensors_.embedding : tensors_.head);
    const HeadFormat format = state_->options.head;
    if (format == HeadFormat::kKeep || checkpoint_->is_quantized(name)) return add(state_->head, name, false);
    const TensorView view = checkpoint_->view(name);
    if (format == HeadFormat::kInt8)
      state_->head.add_int8(view, state_->options.threads, release());
    else
      state_->head.add(quantize(view, make_codebook("nf4"), name), {}, state_->options.threads);
    finish(view);
  }

  void add(LinearGroup& group, const std::string& name, bool with_bias) {
    const ModelOptions& options = state_->options;
    std::vector<float> bias;
    if (with_bias) bias = read_floats(*checkpoint_, bias_name(name));
    if (checkpoint_->is_quantized(name)) {
      const QuantizedView view = checkpoint_->quantized(name);
      group.add(view, bias, options.threads, release());
      finish(view.codes);
      finish(view.absmax);
      return;
    }
    const TensorView view = checkpoint_->view(name);
    if (&group == &state_->head)
      group.add(view, bias, options.threads, release());
    else if (family_.stored_transposed)
      add_plain(group, name, transposed(view).view(), bias, nullptr);
    else
      add_plain(group, name, view, bias, release());
    finish(view);
  }

  // A plain matrix of the layers, in the form that the options ask for.
  void add_plain(LinearGroup& group, const std::string& name, const TensorView& view,
                 const std::vector<float>& bias, const LinearGroup::Release& release) {
    const ModelOptions& options = state_->options;
    if (options.transform)
      add_transformed(group, name, view, bias);
    else if (options.quantize)
      group.add(quantize(view, *options.quantize, name), bias, options.threads);
    else
      group.add(view, bias, options.threads, release);
  }

  void add_transformed(LinearGroup& group, const std::string& name, const TensorView& view,
                       const std::vector<float>& bias) {
    const ModelOptions& options = state_->options;
    std::vector<float> values(static_cast<size_t>(view.elements()));
    convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
    options.transform(name, values, view.shape[0], view.shape[1]);
    const TensorView exact{DType::kF32, view.shape, std::as_bytes(std::span(values))};
    if (options.precision == Precision::kF32) return group.add(exact, bias, options.threads);
    Tensor rounded(view.dtype, view.shape);
    convert_elements(exact, view.dtype, rounded.bytes());
    group.add(rounded.view(), bias, options.threads);
  }

  // Drops pages that have been read while the rest of a matrix is packed.
  LinearGroup::Release release() const {
    return [this](std::span<const uint8_t> done) {
      checkpoint_->release({DType::kU8, Shape{static_cast<int64_t>(done.size())}, std::as_bytes(done)});
    };
  }

  // Its pages are not needed any more.
  void finish(const TensorView& view) {
    checkpoint_->release(view);
    done_bytes_ += view.bytes.size();
    if (state_->options.progress) state_->options.progress(done_bytes_, total_bytes_);
  }

  QuantizedTensor quantize(const TensorView& view, const Codebook& codebook, const std::string& name) const {
    const ModelOptions& options = state_->options;
    try {
      return quantize_blockwise(view, codebook,
                                {.block_size = options.quantize_block_size,
                                 .double_quantization = options.quantize_double,
                                 .threads = options.threads});
    } catch (const Error& error) {
      fail(error.code(), "{}: {}: {}", checkpoint_->path(), name, error.what());
    }
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  const Family& family_;
  const FamilyTensors& tensors_;
  const TensorNames names_;
  std::shared_ptr<Model::State> state_ = std::make_shared<Model::State>();
  uint64_t done_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace

void count_memory(Model::State& state) noexcept {
  ModelMemory& memory = state.memory;
  memory = {};
  uint64_t idle = 0;  // of experts that a token does not choose
  const auto count_norm = [&](const NormWeights& norm) {
    memory.other_bytes += (norm.weight.size() + norm.bias.size()) * sizeof(float);
  };
  for (const LayerWeights& layer : state.layers) {
    for (const LinearGroup* group :
         {&layer.query_key_value, &layer.output, &layer.gate_up, &layer.down, &layer.router})
      memory.projection_bytes += group->bytes();
    uint64_t experts = 0;
    for (const ExpertWeights& expert : layer.experts) experts += expert.gate_up.bytes() + expert.down.bytes();
    memory.projection_bytes += experts;
    if (!layer.experts.empty())
      idle += experts / layer.experts.size() *
              (layer.experts.size() - static_cast<size_t>(state.config.experts.chosen));
    for (const NormWeights* norm : {&layer.attention_norm, &layer.attention_post_norm, &layer.query_norm,
                                    &layer.key_norm, &layer.mlp_norm, &layer.mlp_post_norm})
      count_norm(*norm);
    memory.other_bytes += layer.sinks.size() * sizeof(float);
  }
  count_norm(state.final_norm);
  memory.projection_bytes += state.project_in.bytes() + state.project_out.bytes();
  memory.other_bytes += state.positions.size() * sizeof(float);
  memory.head_bytes = state.head.bytes();
  memory.embedding_bytes = state.embedding.bytes();
  memory.read_per_token_bytes = memory.projection_bytes - idle + memory.head_bytes;
}

void check_available_memory(uint64_t needed, const std::string& what) {
  const uint64_t available = available_memory_bytes();
  if (available != 0 && needed > available)
    fail(ErrorCode::kOutOfMemory, "{} takes {} MiB of memory and {} MiB are available", what, needed >> 20,
         available >> 20);
}

uint64_t available_memory_bytes() noexcept {
  std::FILE* file = std::fopen("/proc/meminfo", "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr)
    if (std::sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
  std::fclose(file);
  return uint64_t{kib} * 1024;
}

// What the packed weights will take, to a few percent: the table of embeddings stays in the mapped file.
static uint64_t estimated_bytes(const Checkpoint& checkpoint, const ModelConfig& config,
                                const ModelOptions& options) {
  uint64_t total =
      static_cast<uint64_t>(config.vocabulary * config.hidden);  // a head in int8, or half of bf16
  const TensorNames names(checkpoint, *find_family(config.family));
  for (const ExpectedTensor& expected : expected_tensors(config, names.experts())) {
    if (expected.shape.rank() < 2 || expected.shape[0] == config.vocabulary) continue;
    const std::string name = names(expected.name);
    const auto elements = static_cast<uint64_t>(expected.shape.elements());
    const bool packed = (options.quantize.has_value() && !options.transform) || checkpoint.is_quantized(name);
    if (expected.bytes)
      total += elements;
    else if (options.transform && options.precision == Precision::kF32)
      total += elements * 4;
    else
      total += packed ? elements / 2 + elements / 32 : elements * dtype_bytes(checkpoint.find(name)->dtype);
  }
  return total;
}

Model Model::load(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                  const ModelOptions& options) {
  expect_readable(*checkpoint);
  check_tensors(*checkpoint, config);
  check_available_memory(estimated_bytes(*checkpoint, config, options), checkpoint->path());
  return Model(Loader(std::move(checkpoint), config, options).run());
}

Model Model::load(const std::string& path, const ModelOptions& options) {
  auto checkpoint = std::make_shared<const Checkpoint>(
      resolve_model_path(path),
      CheckpointOptions{.decoded = options.precision == Precision::kF32 ? DType::kF32 : DType::kBF16,
                        .packed = true,
                        .keep_mxfp4 = true});
  const std::string text = checkpoint->text_file("config.json");
  if (text.empty())
    fail(ErrorCode::kNotFound, "{}: no config.json; a model is a folder with its configuration", path);
  const ModelConfig config = parse_model_config(text, checkpoint->path() + "/config.json");
  return load(std::move(checkpoint), config, options);
}

const ModelConfig& Model::config() const noexcept {
  return state_->config;
}
const ModelOptions& Model::options() const noexcept {
  return state_->options;
}
const ModelMemory& Model::memory() const noexcept {
  return state_->memory;
}

}  // namespace nfloat
