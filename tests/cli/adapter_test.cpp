// SPDX-License-Identifier: Apache-2.0
// What `nfloat convert --lora` takes and refuses of PEFT's adapters, against sums in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/json.h"
#include "cli/process.h"
#include "nfloat/checkpoint.h"

namespace nfloat::cli_test {
namespace {

// A float32 tensor in double precision.
struct Values {
  std::vector<int64_t> shape;
  std::vector<double> at;
  double operator()(int64_t row, int64_t col) const { return at[static_cast<size_t>(row * shape[1] + col)]; }
};
using Tensors = std::map<std::string, Values>;

Values random_values(std::vector<int64_t> shape, unsigned seed) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  Values values{std::move(shape), std::vector<double>(static_cast<size_t>(count))};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (double& value : values.at) value = 0.1f * normal(random);
  return values;
}

void write_tensors(const std::string& file, const Tensors& tensors) {
  Json header = Json::object();
  std::string bytes;
  for (const auto& [name, values] : tensors) {
    const size_t begin = bytes.size();
    for (const double value : values.at) {
      const auto stored = static_cast<float>(value);
      bytes.append(reinterpret_cast<const char*>(&stored), sizeof stored);
    }
    header[name] = {{"dtype", "F32"}, {"shape", values.shape}, {"data_offsets", {begin, bytes.size()}}};
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  write_file(file, std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + bytes);
}

Values read_values(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.view(name);
  std::vector<float> values(static_cast<size_t>(view.elements()));
  convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
  return {view.shape.dims(), {values.begin(), values.end()}};
}

class Adapter : public Cli {
 protected:
  static constexpr int64_t kRank = 4;
  // Linear: 'model.layers.0.mlp.up_proj', 12 x 8, with a bias. Conv1D: 'transformer.h.0.attn.c_attn', 8 in,
  // 12 out.
  std::string base(const std::string& weight, const Json& config, Tensors more = {}) {
    Tensors tensors = std::move(more);
    const bool conv = weight.ends_with("c_attn");
    tensors[weight + ".weight"] = random_values({conv ? 8 : 12, conv ? 12 : 8}, 11);
    tensors[weight + ".bias"] = random_values({12}, 12);
    const std::string folder = path("base");
    std::filesystem::create_directories(folder);
    write_file(folder + "/config.json", config.dump());
    write_tensors(folder + "/model.safetensors", tensors);
    base_ = tensors;
    return folder;
  }
  static Tensors pair(const std::string& module) {
    return {{"base_model.model." + module + ".lora_A.weight", random_values({kRank, 8}, 1)},
            {"base_model.model." + module + ".lora_B.weight", random_values({12, kRank}, 2)}};
  }
  std::string adapter(const Tensors& tensors, const Json& settings = Json::object()) {
    const std::string folder = path("adapter");
    std::filesystem::create_directories(folder);
    Json config{{"peft_type", "LORA"}, {"r", kRank}, {"lora_alpha", 8}, {"init_lora_weights", true}};
    for (const auto& [name, value] : settings.items()) config[name] = value;
    write_file(folder + "/adapter_config.json", config.dump());
    write_tensors(folder + "/adapter_model.safetensors", tensors);
    return folder;
  }
  Tensors merged(const std::string& folder, const std::string& lora) {
    std::filesystem::remove_all(path("out"));
    const Result result = nfloat({"convert", folder, path("out"), "--lora", lora, "--type", "f32"});
    EXPECT_TRUE(result.ok()) << result;
    Tensors tensors;
    if (!result.ok()) return tensors;
    const Checkpoint checkpoint(path("out"));
    for (const std::string& name : checkpoint.weight_names()) tensors[name] = read_values(checkpoint, name);
    return tensors;
  }
  // scale * B A of pair(), [12, 8].
  static double change(int64_t out, int64_t in, double scale) {
    static const Values a = random_values({kRank, 8}, 1), b = random_values({12, kRank}, 2);
    double sum = 0;
    for (int64_t k = 0; k < kRank; ++k) sum += b(out, k) * a(k, in);
    return scale * sum;
  }
  void expect_added(const Tensors& result, const std::string& weight, double scale, bool turned = false) {
    ASSERT_TRUE(result.contains(weight));
    for (int64_t out = 0; out < 12; ++out)
      for (int64_t in = 0; in < 8; ++in) {
        const int64_t row = turned ? in : out, col = turned ? out : in;
        ASSERT_NEAR(result.at(weight)(row, col), base_.at(weight)(row, col) + change(out, in, scale), 1e-6)
            << weight << " " << out << " " << in;
      }
  }
  const std::string up_ = "model.layers.0.mlp.up_proj", attn_ = "transformer.h.0.attn.c_attn";
  const Json llama_{{"model_type", "llama"}, {"tie_word_embeddings", false}},
      gpt2_{{"model_type", "gpt2"}, {"tie_word_embeddings", false}};
  Tensors base_;
};

TEST_F(Adapter, SettingsThatNoSumCanFollowAreNamed) {
  const std::string folder = base(up_, llama_);
  const std::pair<const char*, Json> settings[] = {
      {"use_qalora", true},
      {"alora_invocation_tokens", Json::array({7})},
      {"layer_replication", Json::array({Json::array({0, 1}), Json::array({0, 1})})},
      {"target_parameters", Json::array({"mlp.experts.gate_up_proj"})},
      {"trainable_token_indices", Json::array({3, 5})},
      {"kasa_config", Json{{"beta", 0.5}}},
      {"peft_type", "VERA"},
      {"init_lora_weights", "pissa_niter_16"},
      {"init_lora_weights", "LoftQ"},
      {"init_lora_weights", "lora_ga"},
      {"init_lora_weights", "of_next_year"},
      {"bias", "some"},
      {"a_key_of_next_year", 0.5}};
  for (const auto& [key, value] : settings) {
    const std::string lora = adapter(pair(up_), Json{{key, value}});
    expect_complaint(nfloat({"convert", folder, path("out"), "--lora", lora}), {"adapter_config.json", key});
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }
}

TEST_F(Adapter, SettingsThatLeaveTheSumAloneAreTaken) {
  const std::string folder = base(up_, llama_);
  for (const Json& settings :
       {Json{{"init_lora_weights", "orthogonal"}, {"use_qalora", false}, {"qalora_group_size", 16}},
        Json{{"init_lora_weights", "eva"},
             {"eva_config", Json{{"rho", 2.0}}},
             {"megatron_core", "megatron.core"}},
        Json{{"a_key_of_next_year", nullptr}, {"another", false}, {"third", Json::object()}},
        Json{{"fan_in_fan_out", true}, {"lora_dropout", 0.1}, {"target_modules", "all-linear"}}}) {
    expect_added(merged(folder, adapter(pair(up_), settings)), up_ + ".weight", 2);
  }
}

TEST_F(Adapter, AlphaIsThatOfTheFirstExpressionThatFits) {
  const std::string folder = base(up_, llama_);
  const std::pair<Json, double> patterns[] = {
      {Json{{"proj", 100}, {"layers\\.[0-9]+\\.mlp\\.(up|gate)_proj", 12}, {"up_proj", 20}}, 12},
      {Json{{"^model\\.layers\\.0\\.mlp\\.up_proj", 28}, {"up_proj", 20}}, 28},
      {Json{{"^layers.*", 28}, {"layers\\.1\\..*", 36}}, 8},
      {Json{{"mlp\\..*", 24}}, 24}};
  for (const auto& [pattern, alpha] : patterns)
    expect_added(merged(folder, adapter(pair(up_), Json{{"alpha_pattern", pattern}})), up_ + ".weight",
                 alpha / kRank);
  expect_complaint(nfloat({"convert", folder, path("x"), "--lora",
                           adapter(pair(up_), Json{{"alpha_pattern", Json{{"(", 1}}}})}),
                   {"alpha_pattern"});
}

TEST_F(Adapter, ModulesAreFoundUnderTheNamesOfOtherReleases) {
  const std::string folder = base("model.language_model.layers.0.mlp.up_proj", llama_);
  for (const std::string name :
       {"language_model.model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj",
        "base_model.model.model.language_model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj"})
    expect_added(merged(folder, adapter(pair(name))), "model.language_model.layers.0.mlp.up_proj.weight", 2);
  // Named adapters, one at a time.
  Tensors named;
  for (const auto& [name, values] : pair(up_))
    named[name.substr(0, name.size() - 6) + "my-run.weight"] = values;
  expect_added(merged(folder, adapter(named)), "model.language_model.layers.0.mlp.up_proj.weight", 2);
  Tensors two = named;
  for (const auto& [name, values] : pair("x")) two[name.substr(0, name.size() - 6) + "other.weight"] = values;
  expect_complaint(nfloat({"convert", folder, path("x"), "--lora", adapter(two)}), {"'my-run'", "'other'"});
  named.merge(pair("model.layers.0.mlp.up_proj"));
  expect_complaint(nfloat({"convert", folder, path("x"), "--lora", adapter(named)}), {"lora_A"});
}

TEST_F(Adapter, DoraGivesEveryOutputItsTrainedLength) {
  for (const bool conv : {false, true}) {
    const std::string module = conv ? attn_ : up_, weight = module + ".weight";
    const std::string folder = base(module, conv ? gpt2_ : llama_);
    Tensors tensors = pair(module);
    const Values lengths = random_values({12}, 3);
    for (const std::string ending : {"", ".weight", ".default.weight"}) {
      Tensors whole = tensors;
      whole["base_model.model." + module + ".lora_magnitude_vector" + ending] = lengths;
      const Tensors result = merged(folder, adapter(whole, Json{{"use_dora", true}}));
      ASSERT_TRUE(result.contains(weight));
      for (int64_t out = 0; out < 12; ++out) {
        double square = 0;
        const auto sum = [&](int64_t in) {
          return (conv ? base_.at(weight)(in, out) : base_.at(weight)(out, in)) + change(out, in, 2);
        };
        for (int64_t in = 0; in < 8; ++in) square += sum(in) * sum(in);
        for (int64_t in = 0; in < 8; ++in)
          ASSERT_NEAR(conv ? result.at(weight)(in, out) : result.at(weight)(out, in),
                      lengths.at[static_cast<size_t>(out)] * sum(in) / std::sqrt(square), 1e-6);
      }
    }
    expect_complaint(
        nfloat({"convert", folder, path("x"), "--lora", adapter(tensors, Json{{"use_dora", true}})}),
        {"lora_magnitude_vector"});
    tensors["base_model.model." + module + ".lora_magnitude_vector"] = lengths;
    expect_complaint(nfloat({"convert", folder, path("x"), "--lora", adapter(tensors)}), {"use_dora"});
    std::filesystem::remove_all(path("base"));
  }
}

TEST_F(Adapter, BiasesWholeModulesAndEmbeddingsGoAlong) {
  const std::string folder = base(attn_, gpt2_,
                                  {{"transformer.wte.weight", random_values({20, 8}, 21)},
                                   {"transformer.ln_f.weight", random_values({8}, 22)},
                                   {"score.weight", random_values({3, 8}, 23)}});
  // B's bias, scaled, joins the module's.
  Tensors tensors = pair(attn_);
  const Values extra = random_values({12}, 4);
  tensors["base_model.model." + attn_ + ".lora_B.bias"] = extra;
  Tensors result = merged(folder, adapter(tensors, Json{{"lora_bias", true}}));
  expect_added(result, attn_ + ".weight", 2, true);
  for (size_t i = 0; i < 12; ++i)
    EXPECT_NEAR(result[attn_ + ".bias"].at[i], base_[attn_ + ".bias"].at[i] + 2 * extra.at[i], 1e-6);
  // Trained tensors take the place of the base's; an embedding's pair is [rank, rows] and [columns, rank].
  tensors = pair(attn_);
  const Values bias = random_values({12}, 5), score = random_values({3, 8}, 6), norm = random_values({8}, 7),
               a = random_values({kRank, 20}, 8), b = random_values({8, kRank}, 9);
  tensors["base_model.model." + attn_ + ".base_layer.bias"] = bias;
  tensors["base_model.model.score.modules_to_save.default.weight"] = score;
  tensors["base_model.model.transformer.ln_f.weight"] = norm;
  tensors["base_model.model.transformer.wte.lora_embedding_A"] = a;
  tensors["base_model.model.transformer.wte.lora_embedding_B"] = b;
  const Json settings{{"bias", "lora_only"}, {"modules_to_save", Json::array({"score", "ln_f"})}};
  result = merged(folder, adapter(tensors, settings));
  expect_added(result, attn_ + ".weight", 2, true);
  EXPECT_EQ(result[attn_ + ".bias"].at, bias.at);
  EXPECT_EQ(result["score.weight"].at, score.at);
  EXPECT_EQ(result["transformer.ln_f.weight"].at, norm.at);
  for (int64_t row = 0; row < 20; ++row)
    for (int64_t col = 0; col < 8; ++col) {
      double sum = base_["transformer.wte.weight"](row, col);
      for (int64_t k = 0; k < kRank; ++k) sum += 2 * b(col, k) * a(k, row);
      ASSERT_NEAR(result["transformer.wte.weight"](row, col), sum, 1e-6);
    }
  // What is announced and not there, not in the base, or tied.
  const auto refused = [&](const Json& more, const std::vector<std::string>& words) {
    expect_complaint(nfloat({"convert", folder, path("x"), "--lora", adapter(tensors, more)}), words);
  };
  refused(Json{{"modules_to_save", Json::array({"classifier"})}}, {"modules_to_save", "classifier"});
  tensors["base_model.model.lm_head.weight"] = random_values({20, 8}, 10);
  refused(settings, {"lm_head"});
  tensors.erase("base_model.model.lm_head.weight");
  tensors["base_model.model.transformer.wte.token_adapter.trainable_tokens_delta"] =
      random_values({2, 8}, 10);
  refused(settings, {"trainable_tokens_delta"});
  tensors.erase("base_model.model.transformer.wte.token_adapter.trainable_tokens_delta");
  write_file(folder + "/config.json", Json{{"model_type", "gpt2"}}.dump());
  refused(settings, {"transformer.wte.weight", "tie"});
}

TEST_F(Adapter, WhatAGgufFileDoesNotHaveIsCountedAndNamed) {
  const Checkpoint tiny(model());
  Tensors tensors{{"vision_tower.layers.3.fc1.weight", random_values({12, 8}, 1)}};
  for (const std::string& name : tiny.weight_names())
    tensors["language_model." + name] = read_values(tiny, name);
  std::filesystem::create_directories(path("llava"));
  Json text = Json::parse(read_file(model() + "/config.json"));
  write_file(path("llava/config.json"), Json{{"model_type", "llava"}, {"text_config", text}}.dump());
  write_tensors(path("llava/model.safetensors"), tensors);
  Tensors pairs = pair("vision_tower.layers.3.fc1");
  const std::string lora = adapter(pairs);
  expect_complaint(nfloat({"convert", path("llava"), path("x.gguf"), "--lora", lora}), {"vision_tower"});
  pairs["base_model.model.language_model.model.norm.weight"] = random_values({256}, 5);
  adapter(pairs);
  const Result result = nfloat({"convert", path("llava"), path("x.gguf"), "--lora", lora, "--type", "bf16"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("merged: 1 "), std::string::npos) << result;
  EXPECT_NE(result.out.find("vision_tower.layers.3.fc1"), std::string::npos) << result;
}

}  // namespace
}  // namespace nfloat::cli_test
