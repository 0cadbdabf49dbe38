// SPDX-License-Identifier: Apache-2.0
#include "tune/adapter_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "architecture/families.h"
#include "base/fail.h"
#include "base/json.h"
#include "checkpoint/safetensors_writer.h"
#include "convert/adapter_config.h"
#include "convert/adapter_names.h"
#include "model/finite.h"
#include "tensor/floats.h"
#include "tune/frozen.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

// A name as an expression that matches it alone.
std::string escaped(const std::string& name) {
  std::string result;
  for (const char c : name) {
    if (c == '.') result += '\\';
    result += c;
  }
  return result;
}

// The last parts of the names where these mean exactly the adapter's modules, else one expression.
Json target_modules(const Model::State& model, const Adapter& adapter) {
  std::set<std::string> parts, names;
  for (const LoraModule& module : adapter.modules) {
    parts.insert(last_part(module.at().name));
    names.insert(module.at().name);
  }
  bool exact = true;
  for (const LinearModule& module : linear_modules(model))
    exact = exact && (!parts.contains(last_part(module.name)) || names.contains(module.name));
  if (exact) return Json(std::vector<std::string>(parts.begin(), parts.end()));
  std::string expression;
  for (const std::string& name : names) {
    if (!expression.empty()) expression += '|';
    expression += escaped(name);
  }
  return Json(fmt::format("({})", expression));
}

void write_config(const std::string& path, const Model::State& model, const Adapter& adapter,
                  const TrainOptions& options, const std::string& base) {
  Json ranks = Json::object(), alphas = Json::object();
  for (const LoraModule& module : adapter.modules) {
    if (module.rank() != options.rank) ranks[escaped(module.at().name)] = module.rank();
    if (module.alpha() != options.alpha) alphas[escaped(module.at().name)] = module.alpha();
  }
  // A whole alpha is an integer, as PEFT has it.
  const bool whole = options.alpha == std::floor(options.alpha) && std::abs(options.alpha) < 1e15;
  Json json = {{"alpha_pattern", alphas},
               {"auto_mapping", nullptr},
               {"base_model_name_or_path", base},
               {"bias", "none"},
               {"fan_in_fan_out", find_family(model.config.family)->stored_transposed},
               {"inference_mode", true},
               {"init_lora_weights", true},
               {"layers_pattern", nullptr},
               {"layers_to_transform", nullptr},
               {"lora_alpha", whole ? Json(static_cast<int64_t>(options.alpha)) : Json(options.alpha)},
               {"lora_dropout", options.dropout},
               {"modules_to_save", nullptr},
               {"peft_type", "LORA"},
               {"r", options.rank},
               {"rank_pattern", ranks},
               {"revision", nullptr},
               {"target_modules", target_modules(model, adapter)},
               {"task_type", "CAUSAL_LM"}};
  if (adapter.dora()) json["use_dora"] = true;
  if (options.rank_stabilized) json["use_rslora"] = true;
  write_file_atomically(path, json.dump(2) + "\n");
}

}  // namespace

void write_floats(const std::string& path, const std::vector<NamedFloats>& tensors) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const NamedFloats& tensor : tensors) declared.push_back({tensor.name, DType::kF32, tensor.shape});
  SafetensorsWriter writer(path, declared, {});
  for (size_t i = 0; i < tensors.size(); ++i) writer.write(i, 0, std::as_bytes(tensors[i].values));
  writer.finish();
  writer.commit();
}

std::vector<float> read_floats(const Checkpoint& file, const std::string& name, const Shape& shape) {
  const TensorInfo* info = file.find(name);
  if (info == nullptr) fail(ErrorCode::kMalformedFile, "{}: no tensor '{}'", file.path(), name);
  if (!is_quantizable(info->dtype) || info->shape != shape)
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {} {}, expected {} of F32, F16 or BF16", file.path(),
         name, dtype_name(info->dtype), info->shape.to_string(), shape.to_string());
  std::vector<float> values = floats_of(file.view(*info));
  if (const int64_t at = first_not_finite(values); at >= 0)
    fail(ErrorCode::kNotFinite, "{}: tensor '{}': element {} is not finite", file.path(), name, at);
  return values;
}

std::string a_name(const LoraModule& module) {
  return fmt::format("base_model.model.{}.lora_A.weight", module.at().name);
}
std::string b_name(const LoraModule& module) {
  return fmt::format("base_model.model.{}.lora_B.weight", module.at().name);
}
std::string magnitude_name(const LoraModule& module) {
  return fmt::format("base_model.model.{}.lora_magnitude_vector", module.at().name);
}

void write_adapter(const std::string& folder, const Model::State& model, const Adapter& adapter,
                   const TrainOptions& options, const std::string& base) {
  std::vector<NamedFloats> tensors;
  for (const LoraModule& module : adapter.modules) {
    tensors.push_back({a_name(module), Shape({module.rank(), module.at().in}), module.a});
    tensors.push_back({b_name(module), Shape({module.at().out, module.rank()}), module.b});
    if (module.dora())
      tensors.push_back({magnitude_name(module), Shape({module.at().out}), module.magnitude});
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const NamedFloats& x, const NamedFloats& y) { return x.name < y.name; });
  write_floats((fs::path(folder) / "adapter_model.safetensors").string(), tensors);
  write_config((fs::path(folder) / "adapter_config.json").string(), model, adapter, options, base);
}

Adapter read_adapter(const std::string& folder, const Model::State& model, TrainOptions& options) {
  const AdapterConfig config(folder);
  const auto refuse = [&](const char* what) {
    fail(ErrorCode::kUnsupported,
         "{}: {}: low-rank pairs of the layers' matrices go beside a model, and can be trained further; "
         "nfloat convert --lora merges the rest too",
         config.source(), what);
  };
  if (config.bias_of_up()) refuse("\"lora_bias\" is true");
  if (!config.whole_modules().empty()) refuse("\"modules_to_save\" is not empty");

  const Checkpoint file((fs::path(folder) / "adapter_model.safetensors").string());
  struct Names {
    std::string a, b, magnitude;
  };
  std::map<std::string, Names> pairs;  // by module
  AdapterTensors tensors(file.path());
  for (const TensorInfo& info : file.tensors()) {
    const AdapterTensor tensor = tensors.read(info.name);
    if (tensor.role == AdapterRole::kDown)
      pairs[tensor.module].a = info.name;
    else if (tensor.role == AdapterRole::kUp)
      pairs[tensor.module].b = info.name;
    else if (tensor.role == AdapterRole::kMagnitude && config.dora())
      pairs[tensor.module].magnitude = info.name;
    else
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is no part of a low-rank pair of a matrix", file.path(),
           info.name);
  }
  std::ifstream text(config.source(), std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(text)), std::istreambuf_iterator<char>());
  const Json json = parse_json_object(whole, config.source());
  const bool by_root = json.contains("use_rslora") && json["use_rslora"] == true;
  const bool start_dora = options.dora && !config.dora();
  options.rank_stabilized = by_root || options.rank_stabilized;
  options.dora = config.dora() || options.dora;
  options.alpha = json["lora_alpha"].get<double>();
  if (json["r"].is_number_integer()) options.rank = json["r"].get<int64_t>();

  Adapter adapter;
  FrozenProducts products(*model.device, false, Precision::kF32, model.options.threads);
  std::vector<std::string> without_pair;
  for (LinearModule& at : linear_modules(model)) {
    const auto found = pairs.find(at.name);
    if (found == pairs.end()) {
      without_pair.push_back(at.name);
      continue;
    }
    const auto& [a, b, magnitude] = found->second;
    if (a.empty() || b.empty() || magnitude.empty() == config.dora())
      fail(ErrorCode::kMalformedFile,
           "{}: '{}' has not all of its parts (lora_A, lora_B, with DoRA a magnitude)", file.path(), at.name);
    const Shape shape = file.find(a)->shape;
    const int64_t rank = shape.rank() == 2 ? shape[0] : 0;
    if (rank < 1)
      fail(ErrorCode::kMalformedFile, "{}: tensor '{}' has the shape {}, expected [rank, {}]", file.path(), a,
           shape.to_string(), at.in);
    const double ranks = static_cast<double>(rank);
    const double scale =
        config.scale(at.name, rank) * (options.rank_stabilized && !by_root ? std::sqrt(ranks) : 1.0);
    std::vector<float> down = read_floats(file, a, Shape({rank, at.in}));
    std::vector<float> up = read_floats(file, b, Shape({at.out, rank}));
    // Where the scale is sqrt(rank) times the file's, B takes it back: the start is the adapter of the file.
    if (options.rank_stabilized && !by_root)
      for (float& value : up) value = static_cast<float>(static_cast<double>(value) / std::sqrt(ranks));
    LoraModule module(std::move(at), rank, scale * (options.rank_stabilized ? std::sqrt(ranks) : ranks),
                      scale);
    module.a = std::move(down);
    module.b = std::move(up);
    if (config.dora()) {
      module.start_magnitude(
          group_at(model.layers[static_cast<size_t>(module.at().layer)], module.at().place), products);
      module.magnitude = read_floats(file, magnitude, Shape({module.at().out}));
    }
    if (start_dora) {
      const LinearGroup& group =
          group_at(model.layers[static_cast<size_t>(module.at().layer)], module.at().place);
      module.start_magnitude(group, products);
      // The lengths of the rows of W + scale * B A, which B = 0 leaves as they are.
      if (std::any_of(module.b.begin(), module.b.end(), [](float value) { return value != 0; })) {
        module.update_factors(group, products, model.options.threads);
        for (size_t o = 0; o < module.magnitude.size(); ++o) module.magnitude[o] /= module.factors[o];
      }
    }
    module.refresh();
    adapter.modules.push_back(std::move(module));
    pairs.erase(found);
  }
  if (!pairs.empty())
    fail(ErrorCode::kMalformedFile, "{}: the model has no matrix '{}'", file.path(), pairs.begin()->first);
  if (adapter.modules.empty()) fail(ErrorCode::kMalformedFile, "{}: no tensors", file.path());
  adapter.index(model.config.layers);
  adapter.missing = config.missing(without_pair, file.path());
  return adapter;
}

}  // namespace nfloat
