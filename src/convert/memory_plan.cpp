// SPDX-License-Identifier: Apache-2.0
#include "nfloat/memory_plan.h"
#include "base/json.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>

#include "base/fail.h"
#include "base/mapped_file.h"
#include "convert/output.h"
#include "nfloat/convert.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kLargestDimension = int64_t{1} << 32;
constexpr int64_t kPrefillTokens = 512;  // that the forward pass takes at once

// Integers of a configuration under the names that families give them.
class ConfigReader {
 public:
  ConfigReader(const Json& config, const std::string& path) : config_(config), path_(path) {}

  int64_t require(std::initializer_list<const char*> keys) const {
    const std::optional<int64_t> value = find(keys);
    if (!value)
      fail(ErrorCode::kUnsupported, "{}: no '{}': not the configuration of a known kind of model", path_,
           *keys.begin());
    return *value;
  }

  int64_t get(std::initializer_list<const char*> keys, int64_t otherwise) const {
    return find(keys).value_or(otherwise);
  }

  bool flag(const char* key, bool otherwise) const {
    const auto found = config_.find(key);
    return found != nullptr && found->is_boolean() ? found->get<bool>() : otherwise;
  }

  bool has(const char* key) const { return config_.contains(key); }

 private:
  std::optional<int64_t> find(std::initializer_list<const char*> keys) const {
    for (const char* key : keys) {
      const auto found = config_.find(key);
      if (found == nullptr || found->is_null()) continue;
      if (!found->is_number_unsigned() || found->get<uint64_t>() > static_cast<uint64_t>(kLargestDimension)) {
        fail(ErrorCode::kMalformedFile, "{}: '{}' is {}, expected a size", path_, key,
             found->dump(-1, Json::Invalid::kReplace));
      }
      return found->get<int64_t>();
    }
    return std::nullopt;
  }

  const Json& config_;
  const std::string& path_;
};

Json read_config(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return parse_json_object(text, path, {.depth = 64, .bytes = size_t{16} << 20});
}

// A product in double: a configuration can lie about sizes.
int64_t checked(double parameters, const std::string& path) {
  if (!(parameters < 1e17))
    fail(ErrorCode::kMalformedFile, "{}: its sizes give more than 10^17 parameters", path);
  return static_cast<int64_t>(parameters);
}

void count_from_config(const ConfigReader& config, const std::string& path, ModelSize* size) {
  // Families whose feed-forward part has no gate: two matrices instead of three.
  static const std::set<std::string> kUngated = {"gpt2", "gpt_neox", "opt",    "phi",
                                                 "gptj", "bloom",    "falcon", "starcoder2"};
  if (config.has("kv_lora_rank")) {
    fail(ErrorCode::kUnsupported, "{}: attention with compressed keys and values (kv_lora_rank) is not known",
         path);
  }
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  const double hidden = number(size->hidden), layers = number(size->layers);
  const double query = number(size->heads) * number(size->head_dim),
               kv = number(size->kv_heads) * number(size->head_dim);
  const double attention = 2 * hidden * query + 2 * hidden * kv;
  const double matrices = kUngated.contains(size->model_type) ? 2 : 3;
  double feed_forward = matrices * hidden * number(size->intermediate), routers = 0;
  if (size->experts > 0) {
    const double expert = number(config.get({"moe_intermediate_size"}, size->intermediate));
    const double shared = number(config.get({"shared_expert_intermediate_size"}, 0));
    feed_forward = matrices * hidden * (expert * number(size->experts) + shared);
    routers = hidden * number(size->experts);
  }
  const bool learned_positions = size->model_type == "gpt2" || size->model_type == "opt";
  size->linear_parameters = checked(layers * (attention + feed_forward), path);
  size->embedding_parameters = checked(
      hidden * (number(size->vocabulary) + (learned_positions ? number(size->max_context) : 0)), path);
  size->head_parameters = size->tied_head ? 0 : checked(hidden * number(size->vocabulary), path);
  size->other_parameters = checked(layers * (2 * hidden + routers) + hidden, path);
}

// Sorted as `nfloat quantize` sorts them.
void count_from_files(const std::string& folder, ModelSize* size) {
  const Checkpoint checkpoint(folder);
  size->linear_parameters = size->embedding_parameters = size->head_parameters = size->other_parameters = 0;
  bool quantized = false;
  for (const std::string& name : checkpoint.weight_names())
    quantized = quantized || checkpoint.is_quantized(name);
  if (quantized) {
    for (const std::string& name : checkpoint.weight_names()) {
      if (checkpoint.is_quantized(name)) {
        size->linear_parameters += checkpoint.quantized(name).shape.elements();
      } else {
        const TensorInfo& tensor = *checkpoint.find(name);
        const bool head = name.find("lm_head") != std::string::npos,
                   embedding = name.find("embed") != std::string::npos;
        (head        ? size->head_parameters
         : embedding ? size->embedding_parameters
                     : size->other_parameters) += tensor.shape.elements();
      }
    }
    return;
  }
  QuantizeCheckpointOptions options;
  options.quantize_experts = true;
  const QuantizationPlan plan = plan_quantization(checkpoint, options);
  for (const TensorPlan& tensor : plan.tensors) {
    int64_t& count = tensor.quantize                  ? size->linear_parameters
                     : tensor.reason == "output head" ? size->head_parameters
                     : tensor.reason == "embedding"   ? size->embedding_parameters
                                                      : size->other_parameters;
    count += tensor.input.shape.elements();
  }
}

}  // namespace

uint64_t ModelSize::kv_cache_bytes(int64_t context, double bytes_per_value) const noexcept {
  return static_cast<uint64_t>(2.0 * static_cast<double>(layers) * static_cast<double>(kv_heads) *
                               static_cast<double>(head_dim) * static_cast<double>(context) *
                               bytes_per_value);
}

ModelSize measure_model(const std::string& path) {
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  const std::string config_path = folder ? (fs::path(path) / "config.json").string() : path;
  const Json whole = read_config(config_path);
  // Models of pictures and text keep the language model's part apart.
  const auto text_part = whole.find("text_config");
  const bool nested = !whole.contains("hidden_size") && text_part != whole.end() && text_part->is_object();
  const ConfigReader config(nested ? *text_part : whole, config_path);

  ModelSize size;
  size.model_type = model_type_of(whole);
  size.layers = config.require({"num_hidden_layers", "n_layer", "num_layers"});
  size.hidden = config.require({"hidden_size", "n_embd", "d_model"});
  size.heads = config.require({"num_attention_heads", "n_head"});
  size.vocabulary = config.require({"vocab_size"});
  if (size.layers < 1 || size.hidden < 1 || size.heads < 1 || size.vocabulary < 1) {
    fail(ErrorCode::kMalformedFile, "{}: a size is zero", config_path);
  }
  size.kv_heads = config.get({"num_key_value_heads"}, size.heads);
  size.head_dim = config.get({"head_dim"}, size.hidden / size.heads);
  size.intermediate =
      config.get({"intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size"}, 4 * size.hidden);
  size.max_context = config.get({"max_position_embeddings", "n_positions"}, 0);
  size.experts = config.get({"num_local_experts", "num_experts", "n_routed_experts"}, 0);
  size.active_experts = size.experts > 0 ? config.get({"num_experts_per_tok"}, 0) : 0;
  static const std::set<std::string> kTiedByDefault = {"gpt2",   "gemma",       "gemma2",
                                                       "gemma3", "gemma3_text", "opt"};
  size.tied_head = config.flag("tie_word_embeddings", kTiedByDefault.contains(size.model_type));

  bool has_weights = false;
  if (folder) {
    for (const auto& entry : fs::directory_iterator(path)) {
      has_weights = has_weights || entry.path().extension() == ".safetensors";
    }
  }
  if (has_weights) {
    count_from_files(path, &size);
  } else {
    count_from_config(config, config_path, &size);
  }
  return size;
}

std::vector<MemoryPlanRow> plan_memory(const ModelSize& model, uint64_t memory_bytes, int64_t context) {
  struct Format {
    const char* name;
    double bits;
  };
  // A block of B weights: codes, and a scale of 32 bits, or of 8 bits with a 32nd of a bit more per 256 of
  // them.
  const auto block = [](double code_bits, double block_size) { return code_bits + 32 / block_size; };
  const auto nested = [](double code_bits, double block_size) {
    return code_bits + 8 / block_size + 32 / (block_size * 256);
  };
  const Format formats[] = {{"float32", 32},
                            {"bfloat16 or float16", 16},
                            {"8 bits, blocks of 32 (16-bit scales)", 8.5},
                            {"NF4, blocks of 32", block(4, 32)},
                            {"NF4, blocks of 64", block(4, 64)},
                            {"NF4, blocks of 64, double quantization", nested(4, 64)},
                            {"NF4, blocks of 128, double quantization", nested(4, 128)}};
  const int64_t plain = model.embedding_parameters + model.head_parameters + model.other_parameters;
  const double widest = static_cast<double>(std::max(model.intermediate, 2 * model.hidden));
  const uint64_t working =
      static_cast<uint64_t>(4 * (static_cast<double>(std::min(context, kPrefillTokens)) *
                                     (4 * static_cast<double>(model.hidden) + 2 * widest) +
                                 static_cast<double>(model.vocabulary)));
  std::vector<MemoryPlanRow> rows;
  for (const Format& format : formats) {
    MemoryPlanRow row;
    row.format = format.name;
    row.bits_per_weight = format.bits;
    const double plain_bits = format.bits == 32 ? 32 : 16;
    row.weight_bytes = static_cast<uint64_t>((format.bits * static_cast<double>(model.linear_parameters) +
                                              plain_bits * static_cast<double>(plain)) /
                                             8);
    row.kv_cache_bytes = model.kv_cache_bytes(context, 2);
    row.working_bytes = working;
    const uint64_t fixed = row.weight_bytes + row.working_bytes;
    const uint64_t per_token = model.kv_cache_bytes(1, 2);
    if (memory_bytes > fixed && per_token > 0) {
      row.largest_context = static_cast<int64_t>((memory_bytes - fixed) / per_token);
      if (model.max_context > 0) row.largest_context = std::min(row.largest_context, model.max_context);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace nfloat
