// SPDX-License-Identifier: Apache-2.0
#include "model/loader.h"

#include <fmt/ranges.h>

#include <cstdio>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/families.h"
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

class Loader {
 public:
  Loader(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config, const ModelOptions& options)
      : checkpoint_(std::move(checkpoint)), tensors_(find_family(config.family)->tensors) {
    state_->config = config;
    state_->options = options;
    state_->options.threads = thread_count(options.threads);
    for (const TensorInfo& info : checkpoint_->tensors()) total_bytes_ += info.bytes;
  }

  std::shared_ptr<const Model::State> run() {
    const ModelConfig& config = state_->config;
    read_embedding();
    for (int64_t layer = 0; layer < config.layers; ++layer) read_layer(layer);
    state_->final_norm = read_floats(*checkpoint_, tensors_.final_norm);
    read_head();
    count_memory(*state_);
    return std::move(state_);
  }

 private:
  void read_embedding() {
    if (checkpoint_->is_quantized(tensors_.embedding))
      state_->embedding = Embedding(checkpoint_->quantized(tensors_.embedding), checkpoint_);
    else
      state_->embedding = Embedding(checkpoint_->view(tensors_.embedding), checkpoint_);
  }

  void read_layer(int64_t layer) {
    const ModelConfig& config = state_->config;
    LayerWeights weights;
    const auto name = [&](const char* pattern) { return layer_tensor(pattern, layer); };
    weights.attention_norm = read_floats(*checkpoint_, name(tensors_.attention_norm));
    for (const char* pattern : {tensors_.query, tensors_.key, tensors_.value})
      add(weights.query_key_value, name(pattern), config.attention_bias);
    add(weights.output, name(tensors_.output), config.output_bias);
    weights.mlp_norm = read_floats(*checkpoint_, name(tensors_.mlp_norm));
    for (const char* pattern : {tensors_.gate, tensors_.up})
      add(weights.gate_up, name(pattern), config.mlp_bias);
    add(weights.down, name(tensors_.down), config.mlp_bias);
    state_->layers.push_back(std::move(weights));
  }

  void read_head() {
    const std::string name = state_->config.tied_head ? tensors_.embedding : tensors_.head;
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
    if (options.transform && &group != &state_->head)
      add_transformed(group, name, view, bias);
    else if (options.quantize && &group != &state_->head)
      group.add(quantize(view, *options.quantize, name), bias, options.threads);
    else
      group.add(view, bias, options.threads, release());
    finish(view);
  }

  void add_transformed(LinearGroup& group, const std::string& name, const TensorView& view,
                       const std::vector<float>& bias) {
    const ModelOptions& options = state_->options;
    std::vector<float> values = read_floats(*checkpoint_, name);
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
  const FamilyTensors& tensors_;
  std::shared_ptr<Model::State> state_ = std::make_shared<Model::State>();
  uint64_t done_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config) {
  const FamilyTensors& names = find_family(config.family)->tensors;
  std::vector<ExpectedTensor> list;
  list.push_back({names.embedding, {config.vocabulary, config.hidden}});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const auto matrix = [&](const char* pattern, int64_t outputs, int64_t inputs, bool with_bias) {
      const std::string name = layer_tensor(pattern, layer);
      list.push_back({name, {outputs, inputs}});
      if (with_bias) list.push_back({bias_name(name), {outputs}});
    };
    list.push_back({layer_tensor(names.attention_norm, layer), {config.hidden}});
    matrix(names.query, config.query_size(), config.hidden, config.attention_bias);
    matrix(names.key, config.kv_size(), config.hidden, config.attention_bias);
    matrix(names.value, config.kv_size(), config.hidden, config.attention_bias);
    matrix(names.output, config.hidden, config.query_size(), config.output_bias);
    list.push_back({layer_tensor(names.mlp_norm, layer), {config.hidden}});
    matrix(names.gate, config.intermediate, config.hidden, config.mlp_bias);
    matrix(names.up, config.intermediate, config.hidden, config.mlp_bias);
    matrix(names.down, config.hidden, config.intermediate, config.mlp_bias);
  }
  list.push_back({names.final_norm, {config.hidden}});
  if (!config.tied_head) list.push_back({names.head, {config.vocabulary, config.hidden}});
  return list;
}

void check_tensors(const Checkpoint& checkpoint, const ModelConfig& config) {
  std::vector<std::string> missing, wrong;
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const TensorInfo* info = checkpoint.find(expected.name);
    if (info == nullptr) {
      missing.push_back(expected.name);
      continue;
    }
    const bool quantized = expected.shape.rank() == 2 && checkpoint.is_quantized(expected.name);
    const Shape shape = quantized ? checkpoint.quantized(expected.name).shape : info->shape;
    if (shape != expected.shape)
      wrong.push_back(
          fmt::format("{} is {}, expected {}", expected.name, shape.to_string(), expected.shape.to_string()));
    else if (!quantized && !is_quantizable(info->dtype))
      wrong.push_back(fmt::format("{} is {}, expected F32, F16, BF16 or bitsandbytes 4-bit", expected.name,
                                  dtype_name(info->dtype)));
  }
  if (!missing.empty())
    fail(ErrorCode::kMalformedFile, "{}: {} tensors that config.json ({}) asks for are missing: {}",
         checkpoint.path(), missing.size(), config.family, fmt::join(missing, ", "));
  if (!wrong.empty())
    fail(ErrorCode::kMalformedFile, "{}: {} tensors disagree with config.json: {}", checkpoint.path(),
         wrong.size(), fmt::join(wrong, "; "));
}

void count_memory(Model::State& state) noexcept {
  ModelMemory& memory = state.memory;
  memory = {};
  for (const LayerWeights& layer : state.layers) {
    for (const LinearGroup* group : {&layer.query_key_value, &layer.output, &layer.gate_up, &layer.down})
      memory.projection_bytes += group->bytes();
    memory.other_bytes += (layer.attention_norm.size() + layer.mlp_norm.size()) * 4;
  }
  memory.other_bytes += state.final_norm.size() * 4;
  memory.head_bytes = state.head.bytes();
  memory.embedding_bytes = state.embedding.bytes();
  memory.read_per_token_bytes = memory.projection_bytes + memory.head_bytes;
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
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    if (expected.shape.rank() != 2 || expected.shape[0] == config.vocabulary) continue;
    const auto elements = static_cast<uint64_t>(expected.shape.elements());
    const bool packed =
        (options.quantize.has_value() && !options.transform) || checkpoint.is_quantized(expected.name);
    if (options.transform && options.precision == Precision::kF32)
      total += elements * 4;
    else
      total += packed ? elements / 2 + elements / 32
                      : elements * dtype_bytes(checkpoint.find(expected.name)->dtype);
  }
  return total;
}

Model Model::load(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                  const ModelOptions& options) {
  check_tensors(*checkpoint, config);
  check_available_memory(estimated_bytes(*checkpoint, config, options), checkpoint->path());
  return Model(Loader(std::move(checkpoint), config, options).run());
}

Model Model::load(const std::string& path, const ModelOptions& options) {
  auto checkpoint = std::make_shared<const Checkpoint>(resolve_model_path(path));
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
