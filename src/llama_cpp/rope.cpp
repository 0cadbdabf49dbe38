// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr double kLowFactor = 1, kHighFactor = 4;  // as every published Llama 3 has them

// How much of the frequency theta^-exponent Llama 3's scaling keeps: 1 above `high` turns within the original
// context, 0 below `low`.
double llama3_kept(double theta, double exponent, int64_t original, double low, double high) {
  const double frequency = std::pow(theta, -exponent);
  const double turns = static_cast<double>(original) * frequency / (2 * std::numbers::pi);
  return std::clamp((turns - low) / (high - low), 0.0, 1.0);
}

// YaRN's usual factor of cosines and sines, which llama.cpp multiplies by "attn_factor".
double yarn_attention(double factor) {
  return factor <= 1 ? 1 : 0.1 * std::log(factor) + 1;
}

std::vector<float> floats_of(const GgufFile& file, const GgufTensor& tensor) {
  constexpr int64_t kMost = 1 << 16;
  if (tensor.shape.elements() > kMost || !is_decodable(tensor.type))
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {} of {}", file.files()[tensor.file], tensor.name,
         gguf_type_info(tensor.type).name, tensor.shape.to_string());
  std::vector<float> values(static_cast<size_t>(tensor.shape.elements()));
  decode_gguf(tensor.type, file.bytes(tensor), values);
  for (const float value : values)
    if (!(std::isfinite(value) && value > 0))
      fail(ErrorCode::kMalformedFile, "{}: tensor '{}' has {}, expected divisors of frequencies",
           file.files()[tensor.file], tensor.name, value);
  return values;
}

class RopeReader {
 public:
  RopeReader(const ModelKeys& keys, const GgufArchitecture& entry, int64_t head_dim, Json& config)
      : keys_(keys), entry_(entry), head_dim_(head_dim), out_(config) {}

  void run() {
    const int64_t turned = keys_.integer("rope.dimension_count", head_dim_);
    if (turned < 2 || turned % 2 != 0 || turned > head_dim_)
      fail(ErrorCode::kMalformedFile, "{}: {} of {} elements of a head turn", keys_.source(), turned,
           head_dim_);
    const double theta = keys_.number("rope.freq_base", 10000);
    out_["rope_theta"] = theta;
    if (turned != head_dim_ || is("gpt_neox"))
      out_["partial_rotary_factor"] = static_cast<double>(turned) / static_cast<double>(head_dim_);
    Json scaling = rope_scaling(theta, turned);
    if (!scaling.is_null()) out_["rope_scaling"] = std::move(scaling);
    if (is("gemma3_text")) out_["rope_local_base_freq"] = keys_.number("rope.freq_base_swa", 10000);
  }

 private:
  bool is(std::string_view model_type) const { return entry_.model_type == model_type; }

  // Llama 3 files keep their stretched frequencies as a tensor of divisors; config.json describes them by
  // four numbers, of which `low` and `high` are the same in all published models.
  Json llama3_scaling(const GgufTensor& tensor, double theta, int64_t turned) const {
    const std::vector<float> divisors = floats_of(keys_.file(), tensor);
    if (divisors.size() != static_cast<size_t>(turned / 2))
      fail(ErrorCode::kMalformedFile, "{}: '{}' has {} elements, expected {}",
           keys_.file().files()[tensor.file], tensor.name, divisors.size(), turned / 2);
    const auto factor = double{divisors.back()};
    std::vector<int64_t> candidates = {keys_.integer("rope.scaling.original_context_length", 8192)};
    for (int64_t context = 64; context <= 1 << 20; context *= 2) candidates.push_back(context);
    for (const int64_t original : candidates) {
      double worst = 0;
      for (size_t i = 0; i < divisors.size(); ++i) {
        const double kept = llama3_kept(theta, 2.0 * static_cast<double>(i) / static_cast<double>(turned),
                                        original, kLowFactor, kHighFactor);
        worst = std::max(worst, std::fabs((kept + (1 - kept) / factor) * double{divisors[i]} - 1));
      }
      if (worst < 1e-4)
        return {{"rope_type", "llama3"},
                {"factor", shortest(factor)},
                {"low_freq_factor", kLowFactor},
                {"high_freq_factor", kHighFactor},
                {"original_max_position_embeddings", original}};
    }
    fail(ErrorCode::kUnsupported, "{}: the frequencies in '{}' are not Llama 3's",
         keys_.file().files()[tensor.file], tensor.name);
  }

  Json long_scaling(const GgufTensor& long_factors) const {
    const GgufTensor* short_factors = keys_.file().find("rope_factors_short.weight");
    if (short_factors == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: there is 'rope_factors_long.weight', but no short one",
           keys_.source());
    Json scaling = {{"rope_type", "longrope"}};
    for (const auto& [name, tensor] :
         {std::pair{"short_factor", short_factors}, std::pair{"long_factor", &long_factors}}) {
      Json list = Json::array();
      for (const float factor : floats_of(keys_.file(), *tensor)) list.push_back(shortest(double{factor}));
      scaling[name] = std::move(list);
    }
    return scaling;
  }

  // llama.cpp multiplies cosines and sines by it whatever stretches them; config.json has it for some.
  void refuse_attention_factor() const {
    constexpr const char* kName = "rope.scaling.attn_factor";
    if (keys_.number(kName, 1) != 1)
      fail(ErrorCode::kUnsupported,
           "{}: metadata \"{}\" is {}, which this version computes for YaRN and longrope alone",
           keys_.source(), keys_.key(kName), keys_.find(kName)->to_string());
  }

  Json rope_scaling(double theta, int64_t turned) {
    if (const GgufTensor* divisors = keys_.file().find("rope_freqs.weight")) {
      refuse_attention_factor();
      return llama3_scaling(*divisors, theta, turned);
    }
    if (const GgufTensor* divisors = keys_.file().find("rope_factors_long.weight")) {
      Json scaling = long_scaling(*divisors);
      out_["original_max_position_embeddings"] =
          keys_.integer("rope.scaling.original_context_length", keys_.required("context_length"));
      if (keys_.has("rope.scaling.attn_factor"))
        scaling["attention_factor"] = keys_.number("rope.scaling.attn_factor", 1);
      return scaling;
    }
    const double factor = keys_.number("rope.scaling.factor", keys_.number("rope.scale_linear", 1));
    const std::string type = keys_.text("rope.scaling.type", factor == 1 ? "none" : "linear");
    if (type != "yarn") refuse_attention_factor();
    if (type == "none" || (type == "linear" && factor == 1)) return nullptr;
    if (type == "linear") return {{"rope_type", "linear"}, {"factor", factor}};
    if (type != "yarn")
      fail(ErrorCode::kUnsupported, "{}: the RoPE scaling \"{}\" is not known to this version",
           keys_.source(), type);
    Json scaling = {{"rope_type", "yarn"},
                    {"factor", factor},
                    {"original_max_position_embeddings",
                     keys_.integer("rope.scaling.original_context_length", keys_.required("context_length"))},
                    {"beta_fast", keys_.number("rope.scaling.yarn_beta_fast", 32)},
                    {"beta_slow", keys_.number("rope.scaling.yarn_beta_slow", 1)}};
    if (keys_.has("rope.scaling.attn_factor"))
      scaling["attention_factor"] =
          shortest(keys_.number("rope.scaling.attn_factor", 1) * yarn_attention(factor));
    if (is("gpt_oss")) scaling["truncate"] = false;
    return scaling;
  }

  const ModelKeys& keys_;
  const GgufArchitecture& entry_;
  const int64_t head_dim_;
  Json& out_;
};

class RopeWriter {
 public:
  RopeWriter(const ModelConfig& config, const GgufArchitecture& entry, ModelKeyWriter& keys)
      : config_(config), entry_(entry), keys_(keys) {}

  void run() {
    const RopeConfig& rope = config_.rope;
    const int64_t turned = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
    keys_.integer("rope.dimension_count", turned);
    keys_.number("rope.freq_base", rope.theta);
    switch (rope.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        keys_.text("rope.scaling.type", "linear");
        keys_.number("rope.scaling.factor", rope.factor);
        break;
      case RopeScaling::kDynamic:
        keys_.note(fmt::format("llama.cpp does not stretch RoPE by length: beyond {} tokens it differs",
                               rope.original_context));
        break;
      case RopeScaling::kLlama3:
        keys_.tensor("rope_freqs.weight", llama3_divisors(turned));
        break;
      case RopeScaling::kYarn:
        yarn();
        break;
      case RopeScaling::kLongRope: {
        keys_.text("rope.scaling.type", "longrope");
        keys_.integer("rope.scaling.original_context_length", rope.original_context);
        keys_.number("rope.scaling.attn_factor", rope.attention_factor);
        const auto factors = [&](const char* name, const std::vector<double>& list) {
          keys_.tensor(name, std::vector<float>(list.begin(), list.end()));
        };
        factors("rope_factors_long.weight", rope.long_factors);
        factors("rope_factors_short.weight", rope.short_factors);
        break;
      }
    }
    if (is("gemma3_text")) {
      keys_.number("rope.freq_base_swa", config_.local_rope.theta);
      if (config_.local_rope.scaling != RopeScaling::kNone) keys_.refuse("stretched RoPE in local layers");
    }
    for (int64_t i = 0; i < config_.layers; ++i) {
      const bool turns = config_.layer(i).rope != LayerRope::kNone;
      if (turns != (!is("smollm3") || (i + 1) % 4 != 0)) {
        keys_.note(is("smollm3") ? "llama.cpp leaves RoPE out in every fourth layer, this model in others"
                                 : "llama.cpp turns queries and keys in every layer, this model does not");
        break;
      }
    }
  }

 private:
  bool is(std::string_view model_type) const { return entry_.model_type == model_type; }

  std::vector<float> llama3_divisors(int64_t turned) const {
    const RopeConfig& rope = config_.rope;
    std::vector<float> divisors;
    for (int64_t i = 0; i < turned; i += 2) {
      const double kept =
          llama3_kept(rope.theta, static_cast<double>(i) / static_cast<double>(turned), rope.original_context,
                      rope.low_frequency_factor, rope.high_frequency_factor);
      divisors.push_back(static_cast<float>(1 / ((1 - kept) / rope.factor + kept)));
    }
    return divisors;
  }

  void yarn() {
    const RopeConfig& rope = config_.rope;
    keys_.text("rope.scaling.type", "yarn");
    keys_.number("rope.scaling.factor", rope.factor);
    keys_.integer("rope.scaling.original_context_length", rope.original_context);
    keys_.number("rope.scaling.yarn_beta_fast", rope.beta_fast);
    keys_.number("rope.scaling.yarn_beta_slow", rope.beta_slow);
    const double usual = yarn_attention(rope.factor);
    // llama.cpp multiplies the usual factor by this one.
    if (std::fabs(rope.attention_factor / usual - 1) > 1e-6)
      keys_.number("rope.scaling.attn_factor", rope.attention_factor / usual);
    if (rope.beta_fast != 32 || rope.beta_slow != 1)
      keys_.note(fmt::format("llama.cpp's YaRN has 32 and 1 for beta, this model {:.6g} and {:.6g}",
                             rope.beta_fast, rope.beta_slow));
    if (!rope.truncate)
      keys_.note("llama.cpp rounds the ends of YaRN's ramp to whole pairs, this model does not");
  }

  const ModelConfig& config_;
  const GgufArchitecture& entry_;
  ModelKeyWriter& keys_;
};

}  // namespace

void read_rope(const ModelKeys& keys, const GgufArchitecture& entry, int64_t head_dim, Json& config) {
  RopeReader(keys, entry, head_dim, config).run();
}

void append_rope(const ModelConfig& config, const GgufArchitecture& entry, ModelKeyWriter& keys) {
  RopeWriter(config, entry, keys).run();
}

}  // namespace nfloat
