// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/fail.h"
#include "gguf/huggingface.h"
#include "gguf/names.h"

namespace nfloat {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLowFactor = 1, kHighFactor = 4;  // as every published Llama 3 has them

// Llama 3 files keep their stretched frequencies as a tensor of divisors; config.json describes them by four
// numbers, of which `low` and `high` are the same in all published models.
Json llama3_scaling(const GgufFile& file, const GgufTensor& tensor, double theta, int64_t head_dim) {
  std::vector<float> divisors(static_cast<size_t>(tensor.shape.elements()));
  decode_gguf(tensor.type, file.bytes(tensor), divisors);
  const double factor = divisors.empty() ? 0 : double{divisors.back()};
  for (const int64_t original : {8192, 4096, 2048, 16384, 32768}) {
    double worst = 0;
    for (size_t i = 0; i < divisors.size(); ++i) {
      const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
      const double turns = static_cast<double>(original) * frequency / (2 * std::numbers::pi);
      const double keep = std::clamp((turns - kLowFactor) / (kHighFactor - kLowFactor), 0.0, 1.0);
      worst = std::max(worst, std::fabs((keep + (1 - keep) / factor) * double{divisors[i]} - 1));
    }
    if (worst < 1e-4)
      return {{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", kLowFactor},
              {"high_freq_factor", kHighFactor},
              {"original_max_position_embeddings", original}};
  }
  fail(ErrorCode::kUnsupported, "{}: the frequencies in '{}' are not Llama 3's", file.files()[tensor.file],
       tensor.name);
}

Json rope_scaling(const GgufFile& file, const std::string& arch, double theta, int64_t head_dim) {
  if (const GgufTensor* divisors = file.find("rope_freqs.weight"))
    return llama3_scaling(file, *divisors, theta, head_dim);
  const std::string type = file.text_or(arch + ".rope.scaling.type", "none");
  if (type == "none") return nullptr;
  if (type != "linear")
    fail(ErrorCode::kUnsupported, "{}: the RoPE scaling \"{}\" is not known to this version", file.files()[0],
         type);
  return {{"rope_type", "linear"}, {"factor", file.number_or(arch + ".rope.scaling.factor", 1)}};
}

}  // namespace

std::string huggingface_config(const GgufFile& file) {
  const std::string& source = file.files()[0];
  const std::string arch = file.text_or("general.architecture", "");
  const GgufArchitecture* architecture = find_gguf_architecture(arch);
  if (architecture == nullptr)
    fail(ErrorCode::kUnsupported, "{}: the architecture \"{}\" is not known; model types that are: {}",
         source, arch, gguf_architecture_names());
  const auto required = [&](std::string_view key) {
    const std::string name = arch + "." + std::string(key);
    if (file.find_value(name) == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is missing", source, name);
    const int64_t value = file.integer_or(name, 0);
    if (value < 1) fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}", source, name, value);
    return value;
  };
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.rank() != 2)
    fail(ErrorCode::kMalformedFile, "{}: no matrix 'token_embd.weight'", source);
  const int64_t hidden = required("embedding_length"), heads = required("attention.head_count");
  const int64_t head_dim = file.integer_or(arch + ".attention.key_length", hidden / heads);
  if (file.integer_or(arch + ".rope.dimension_count", head_dim) != head_dim)
    fail(ErrorCode::kUnsupported, "{}: {} of {} elements of a head are rotated; all are expected", source,
         file.integer_or(arch + ".rope.dimension_count", head_dim), head_dim);
  const double theta = file.number_or(arch + ".rope.freq_base", 10000);
  Json config;
  config["architectures"] = Json::array({std::string(architecture->class_name)});
  config["model_type"] = architecture->model_type;
  config["hidden_size"] = hidden;
  config["intermediate_size"] = required("feed_forward_length");
  config["num_hidden_layers"] = required("block_count");
  config["num_attention_heads"] = heads;
  config["num_key_value_heads"] = file.integer_or(arch + ".attention.head_count_kv", heads);
  config["head_dim"] = head_dim;
  config["vocab_size"] = embedding->shape[0];
  config["max_position_embeddings"] = required("context_length");
  config["rms_norm_eps"] = file.number_or(arch + ".attention.layer_norm_rms_epsilon", 1e-6);
  config["rope_theta"] = theta;
  config["rope_scaling"] = rope_scaling(file, arch, theta, head_dim);
  config["hidden_act"] = "silu";
  config["attention_bias"] = architecture->interleaved && file.find("blk.0.attn_q.bias") != nullptr;
  config["mlp_bias"] = file.find("blk.0.ffn_gate.bias") != nullptr;
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  for (const auto& [from, to] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                 {"tokenizer.ggml.eos_token_id", "eos_token_id"}}) {
    const int64_t id = file.integer_or(from, -1);
    if (id >= 0 && id < embedding->shape[0]) config[to] = id;
  }
  return config.dump(2) + "\n";
}

}  // namespace nfloat
