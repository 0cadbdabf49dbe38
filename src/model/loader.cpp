// SPDX-License-Identifier: Apache-2.0
#include "model/loader.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "architecture/families.h"
#include "base/fail.h"
#include "base/fnv.h"
#include "base/parallel.h"
#include "checkpoint/fingerprint.h"
#include "checkpoint/foreign.h"
#include "engine/ranks/ranks_device.h"
#include "model/layer_reader.h"
#include "model/model_state.h"
#include "ranks/same_files.h"

namespace nfloat {

namespace {

// What decides the weights, the tokens and how they are drawn.
std::string fingerprint_of(const Checkpoint& checkpoint) {
  uint64_t texts = kFnvStart;
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer.model",
                           "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"})
    texts = fnv(checkpoint.text_file(name), fnv(name, texts));
  return fmt::format("{}{:016x}", files_fingerprint(checkpoint), texts);
}

// Of the packed weights, what this rank will hold.
double own_share(const ModelOptions& options) {
  if (!options.ranks) return 1;
  expect_shares(options.rank_shares, options.ranks->count());
  const auto rank = static_cast<size_t>(options.ranks->rank());
  if (options.rank_shares.empty()) return 1.0 / options.ranks->count();
  return options.rank_shares[rank] /
         std::accumulate(options.rank_shares.begin(), options.rank_shares.end(), 0.0);
}

// With the first `layers` layers.
std::shared_ptr<Model::State> read_state(std::shared_ptr<const Checkpoint> checkpoint,
                                         const ModelConfig& config, const ModelOptions& options,
                                         int64_t layers) {
  auto state = std::make_shared<Model::State>(device_of(options));
  if (options.ranks) {
    expect_same_files(*options.ranks, checkpoint->path(), fingerprint_of(*checkpoint));
    checkpoint->expect_places();
  }
  state->checkpoint = checkpoint;
  state->config = config;
  state->options = options;
  state->options.threads = thread_count(options.threads);
  state->options.device = state->device->name();
  uint64_t done = 0, total = 0;
  for (const TensorInfo& info : checkpoint->tensors()) total += info.bytes;
  const LayerReader reader(
      checkpoint, config, state->options,
      [&](uint64_t bytes) {
        done += bytes;
        if (options.progress) options.progress(done, total);
      },
      state->device);
  state->embedding = reader.embedding();
  state->positions = reader.positions();
  if (config.position_rows > 0) state->position_offset = reader.position_offset();
  if (config.embedding_size > 0) {
    state->project_in = reader.project_in();
    state->project_out = reader.project_out();
  }
  if (options.stream_layers)
    state->reader =
        std::make_shared<const LayerReader>(checkpoint, config, state->options, nullptr, state->device);
  else
    for (int64_t layer = 0; layer < layers; ++layer) state->layers.push_back(reader.layer(layer));
  state->final_norm = reader.final_norm();
  state->head = reader.head();
  count_memory(*state);
  return state;
}

}  // namespace

void check_tensors(const Checkpoint& checkpoint, const ModelConfig& config) {
  check_tensors(stored_tensors(checkpoint), config);
}

std::shared_ptr<Device> device_of(const ModelOptions& options) {
  std::shared_ptr<Device> device = find_device(options.device);
  if (!options.ranks || options.ranks->count() == 1) return device;
  if (device != cpu_device())
    fail(ErrorCode::kUnsupported, "{}: several ranks compute on the CPU only", device->name());
  return ranks_device(options.ranks, options.rank_shares);
}

std::shared_ptr<Model::State> load_state(std::shared_ptr<const Checkpoint> checkpoint,
                                         const ModelConfig& config, const ModelOptions& options) {
  return read_state(std::move(checkpoint), config, options, config.layers);
}

std::shared_ptr<const LayerWeights> Model::State::layer(int64_t index) const {
  if (reader) return std::make_shared<const LayerWeights>(reader->layer(index));
  return {std::shared_ptr<const void>(), &layers[static_cast<size_t>(index) % layers.size()]};
}

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

void check_available_memory(uint64_t needed, const std::string& what, const Device* device) {
  if (device != nullptr) device->expect_usable();
  if (const auto free = device != nullptr ? device->free_bytes() : std::nullopt; free && needed > *free)
    fail(ErrorCode::kOutOfMemory, "{} takes {} MiB of memory and {} MiB are available on {} ({})", what,
         needed >> 20, *free >> 20, device->name(), device->model());
  else if (free)
    return;
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

uint64_t estimated_bytes(const Checkpoint& checkpoint, const ModelConfig& config,
                         const ModelOptions& options) {
  uint64_t total = 0;
  const TensorNames names(checkpoint.weight_names(), *find_family(config.family));
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
  if (options.stream_layers)  // one at work, one being read
    total = total / static_cast<uint64_t>(config.layers) *
            std::min<uint64_t>(2, static_cast<uint64_t>(config.layers));
  total += static_cast<uint64_t>(config.vocabulary * config.hidden);  // a head in int8, or half of bf16
  return static_cast<uint64_t>(static_cast<double>(total) * own_share(options));
}

// Throws where all matrices of the layers have codes, which stay as they are.
static void expect_plain_matrices(const Checkpoint& checkpoint, const ModelConfig& config) {
  const TensorNames names(checkpoint.weight_names(), *find_family(config.family));
  for (const ExpectedTensor& expected : expected_tensors(config, names.experts())) {
    const bool matrix = expected.role == TensorRole::kLinear || expected.role == TensorRole::kConv1D ||
                        expected.role == TensorRole::kExpert;
    if (matrix && !expected.bytes && !checkpoint.is_quantized(names(expected.name))) return;
  }
  fail(ErrorCode::kInvalidArgument,
       "{}: its matrices are quantized already: there is nothing to quantize while it is loaded",
       checkpoint.path());
}

Model Model::load(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                  const ModelOptions& options) {
  expect_readable(*checkpoint);
  check_tensors(*checkpoint, config);
  if (options.quantize && !options.transform) expect_plain_matrices(*checkpoint, config);
  check_available_memory(estimated_bytes(*checkpoint, config, options), checkpoint->path(),
                         find_device(options.device).get());
  return Model(load_state(std::move(checkpoint), config, options));
}

namespace {

struct Opened {
  std::shared_ptr<const Checkpoint> checkpoint;
  ModelConfig config;
};

Opened open_model(const std::string& path, const ModelOptions& options) {
  auto checkpoint = std::make_shared<const Checkpoint>(
      resolve_model_path(path),
      CheckpointOptions{.decoded = options.precision == Precision::kF32 ? DType::kF32 : DType::kBF16,
                        .packed = true,
                        .keep_mxfp4 = true});
  const std::string text = checkpoint->text_file("config.json");
  if (text.empty())
    fail(ErrorCode::kNotFound, "{}: no config.json; a model is a folder with its configuration", path);
  ModelConfig config = parse_model_config(text, checkpoint->path() + "/config.json");
  return {std::move(checkpoint), std::move(config)};
}

}  // namespace

Model Model::load(const std::string& path, const ModelOptions& options) {
  Opened opened = open_model(path, options);
  return load(std::move(opened.checkpoint), opened.config, options);
}

Model load_repeating(const std::string& path, const ModelOptions& options, int64_t layers) {
  Opened opened = open_model(path, options);
  const ModelConfig& config = opened.config;
  for (int64_t layer = 1; layer < config.layers; ++layer)
    if (config.layer(layer).experts != config.layer(0).experts) layers = config.layers;
  if (layers >= config.layers) return Model::load(std::move(opened.checkpoint), config, options);
  expect_readable(*opened.checkpoint);
  check_tensors(*opened.checkpoint, config);
  return Model(read_state(std::move(opened.checkpoint), config, options, layers));
}

std::string resolved_device(const std::string& name) {
  return std::string(find_device(name)->name());
}

namespace {

DeviceInfo info_of(const Device& device) {
  return {std::string(device.name()),
          std::string(device.model()),
          device.accelerator(),
          device.free_bytes(),
          device.total_bytes(),
          std::string(device.matrix_units()),
          device.graphs()};
}

}  // namespace

std::vector<DeviceInfo> available_devices() {
  std::vector<DeviceInfo> all;
  for (const std::shared_ptr<Device>& device : devices()) all.push_back(info_of(*device));
  return all;
}

std::vector<MissingDevices> missing_devices() {
  std::vector<MissingDevices> all;
  for (const char* kind : {"cuda", "vulkan"})
    if (std::string reason = why_none(kind); !reason.empty()) all.push_back({kind, std::move(reason)});
  return all;
}

DeviceInfo device_info(const std::string& name) {
  return info_of(*find_device(name));
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
