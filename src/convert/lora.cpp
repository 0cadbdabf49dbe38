// SPDX-License-Identifier: Apache-2.0
#include "convert/lora.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include "base/fail.h"
#include "base/json.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kWeights = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kDown = ".lora_A.weight", kUp = ".lora_B.weight";
constexpr int64_t kMostRank = 65536;

// What of adapter_config.json decides the numbers.
struct Settings {
  double alpha = 0;
  bool by_root = false;          // rank-stabilized: alpha / sqrt(rank)
  bool transposed = false;       // the base holds its weights as [in, out]
  Json alphas = Json::object();  // alpha_pattern: by module
  std::string source;
};

Settings read_settings(const std::string& folder) {
  Settings settings;
  settings.source = (fs::path(folder) / kConfig).string();
  std::ifstream file(settings.source, std::ios::binary);
  if (!file)
    fail(ErrorCode::kNotFound, "{}: no such file; a LoRA adapter is a folder that PEFT saved",
         settings.source);
  constexpr size_t kMostBytes = size_t{1} << 20;
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  const auto malformed = [&](const std::string& what) {
    fail(ErrorCode::kMalformedFile, "{}: {}", settings.source, what);
  };
  const Json json = parse_json_object(text, settings.source, {.bytes = kMostBytes});
  const auto flag = [&](const char* key) {
    if (!json.contains(key) || json[key].is_null()) return false;
    if (!json[key].is_boolean()) malformed(fmt::format("\"{}\" is not true or false", key));
    return json[key].get<bool>();
  };
  if (json["peft_type"] != "LORA")
    fail(ErrorCode::kUnsupported, "{}: \"peft_type\" is not LORA", settings.source);
  if (flag("use_dora")) fail(ErrorCode::kUnsupported, "{}: DoRA adapters are not merged", settings.source);
  if (!json.contains("lora_alpha") || !json["lora_alpha"].is_number())
    malformed("\"lora_alpha\" is not a number");
  settings.alpha = json["lora_alpha"].get<double>();
  settings.by_root = flag("use_rslora");
  settings.transposed = flag("fan_in_fan_out");
  if (json.contains("alpha_pattern") && !json["alpha_pattern"].is_null()) {
    settings.alphas = json["alpha_pattern"];
    if (!settings.alphas.is_object()) malformed("\"alpha_pattern\" is not an object");
    for (const auto& [module, alpha] : settings.alphas.items()) {
      if (module.find_first_of("*+?()[]{}|\\^$") != std::string::npos)
        fail(ErrorCode::kUnsupported,
             "{}: \"alpha_pattern\" has an expression, '{}'; names of modules are understood",
             settings.source, module);
      if (!alpha.is_number()) malformed(fmt::format("\"alpha_pattern\" of '{}' is not a number", module));
    }
  }
  return settings;
}

double scale_of(const Settings& settings, const std::string& module, int64_t rank) {
  double alpha = settings.alpha;
  for (const auto& [name, value] : settings.alphas.items())
    if (module == name || module.ends_with(fmt::format(".{}", name))) alpha = value.get<double>();
  return alpha / (settings.by_root ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
}

std::vector<float> read_matrix(const Checkpoint& adapter, const TensorInfo& info) {
  if (info.shape.rank() != 2 || info.shape.elements() < 1 || !is_quantizable(info.dtype))
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {} {}, expected a matrix of F32, F16 or BF16",
         adapter.path(), info.name, dtype_name(info.dtype), info.shape.to_string());
  std::vector<float> values(static_cast<size_t>(info.shape.elements()));
  convert_elements(adapter.view(info), DType::kF32, std::as_writable_bytes(std::span(values)));
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (bad != values.end())
    fail(ErrorCode::kNotFinite, "{}: tensor '{}' has a NaN or infinity at {}", adapter.path(), info.name,
         bad - values.begin());
  return values;
}

std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
  std::vector<float> result(values.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      result[static_cast<size_t>(c * rows + r)] = values[static_cast<size_t>(r * cols + c)];
  return result;
}

// The base's weight of a module; some checkpoints leave out the first part of the name ("transformer.").
std::optional<std::string> weight_of(const Checkpoint& base, const std::string& module) {
  const std::string whole = fmt::format("{}.weight", module);
  if (base.find(whole) != nullptr) return whole;
  const size_t dot = whole.find('.');
  if (const std::string rest = whole.substr(dot + 1); base.find(rest) != nullptr) return rest;
  return std::nullopt;
}

}  // namespace

void LoraDelta::add(int64_t begin, std::span<float> values) const noexcept {
  constexpr int64_t kPart = 1024;
  const auto count = static_cast<int64_t>(values.size());
  for (int64_t done = 0; done < count;) {
    const int64_t row = (begin + done) / cols, first = (begin + done) % cols;
    const int64_t part = std::min({count - done, cols - first, kPart});
    float sums[kPart] = {};
    for (int64_t k = 0; k < rank; ++k) {
      const float factor = up[static_cast<size_t>(row * rank + k)];
      const float* from = down.data() + k * cols + first;
      for (int64_t i = 0; i < part; ++i) sums[i] += factor * from[i];
    }
    for (int64_t i = 0; i < part; ++i) values[static_cast<size_t>(done + i)] += sums[i];
    done += part;
  }
}

LoraAdapter::LoraAdapter(const std::string& folder, const Checkpoint& base) {
  const Settings settings = read_settings(folder);
  const std::string path = (fs::path(folder) / kWeights).string();
  if (!fs::exists(path) && fs::exists(fs::path(folder) / "adapter_model.bin"))
    fail(ErrorCode::kUnsupported,
         "{}/adapter_model.bin: save the adapter as safetensors (save_pretrained does by default)", folder);
  const Checkpoint adapter(path);
  for (const TensorInfo& info : adapter.tensors()) {
    if (info.name.ends_with(kUp) && info.name.starts_with(kPrefix)) {
      const std::string down = fmt::format("{}{}", info.name.substr(0, info.name.size() - kUp.size()), kDown);
      if (adapter.find(down) == nullptr)
        fail(ErrorCode::kMalformedFile, "{}: '{}' has no '{}' beside it", path, info.name, down);
      continue;
    }
    if (!info.name.ends_with(kDown) || !info.name.starts_with(kPrefix))
      fail(
          ErrorCode::kUnsupported,
          "{}: tensor '{}' is not of a LoRA matrix pair; embeddings, biases and whole modules are not merged",
          path, info.name);
    const std::string stem = info.name.substr(0, info.name.size() - kDown.size());
    const std::string module = stem.substr(kPrefix.size());
    const TensorInfo* other = adapter.find(fmt::format("{}{}", stem, kUp));
    if (other == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: '{}' has no '{}{}' beside it", path, info.name, stem, kUp);
    LoraDelta delta;
    delta.down = read_matrix(adapter, info);
    delta.up = read_matrix(adapter, *other);
    delta.rank = info.shape[0];
    delta.cols = info.shape[1];
    delta.rows = other->shape[0];
    if (delta.rank > kMostRank || other->shape[1] != delta.rank)
      fail(ErrorCode::kMalformedFile, "{}: '{}' is {} and '{}' is {}: the ranks do not agree", path,
           info.name, info.shape.to_string(), other->name, other->shape.to_string());
    const std::optional<std::string> weight = weight_of(base, module);
    if (!weight)
      fail(ErrorCode::kMalformedFile, "{}: {} has no weight for module '{}'", path, base.path(), module);
    const auto scale = static_cast<float>(scale_of(settings, module, delta.rank));
    for (float& value : delta.up) value *= scale;
    // bitsandbytes turns such weights when it quantizes them.
    if (settings.transposed && !base.is_quantized(*weight)) {
      std::vector<float> down = transposed(delta.up, delta.rows, delta.rank);
      delta.up = transposed(delta.down, delta.rank, delta.cols);
      delta.down = std::move(down);
      std::swap(delta.rows, delta.cols);
    }
    const Shape expected({delta.rows, delta.cols}), shape = base.weight_shape(*weight);
    if (shape != expected)
      fail(ErrorCode::kMalformedFile, "{}: module '{}' is for a weight {}, {} has {}", path, module,
           expected.to_string(), base.path(), shape.to_string());
    if (!deltas_.emplace(*weight, std::move(delta)).second)
      fail(ErrorCode::kMalformedFile, "{}: two matrix pairs for '{}'", path, *weight);
  }
  if (deltas_.empty()) fail(ErrorCode::kMalformedFile, "{}: no LoRA matrices", path);
}

const LoraDelta* LoraAdapter::find(const std::string& weight) const noexcept {
  const auto found = deltas_.find(weight);
  return found == deltas_.end() ? nullptr : &found->second;
}

}  // namespace nfloat
