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

TEST_F(Adapter, AFactorThatIsNoNumberIsNamed) {
  const std::string folder = base(up_, llama_), lora = adapter(pair(up_)),
                    file = lora + "/adapter_config.json";
  for (const char* text : {R"("lora_alpha": NaN)", R"("lora_alpha": 1e300)",
                           R"("lora_alpha": 8, "alpha_pattern": {"up_proj": -Infinity})"}) {
    write_file(file, std::string(R"({"peft_type": "LORA", "r": 4, )") + text + "}");
    expect_complaint(nfloat({"convert", folder, path("out"), "--lora", lora}),
                     {"adapter_config.json", "alpha", "expected a number"});
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

// What PEFT makes of the names: nobody's pair may be there that it would not have made.
TEST_F(Adapter, SettingsThatContradictTheTensorsAreNamed) {
  const std::string folder = base(up_, llama_);
  const std::pair<Json, const char*> wrong[] = {
      {Json{{"r", 8}}, "\"r\""},
      {Json{{"r", 2}, {"rank_pattern", Json{{"down_proj", kRank}}}}, "\"r\""},
      {Json{{"rank_pattern", Json{{"up_proj", 2}, {"mlp.up_proj", kRank}}}}, "rank_pattern"},
      {Json{{"target_modules", Json::array({"q_proj", "proj", "p_proj"})}}, "target_modules"},
      {Json{{"target_modules", "up_proj"}}, "target_modules"},
      {Json{{"target_modules", ".*\\.1\\.mlp\\.up_proj"}}, "target_modules"},
      {Json{{"exclude_modules", Json::array({"up_proj"})}, {"target_modules", Json::array({"up_proj"})}},
       "exclude_modules"},
      {Json{{"exclude_modules", ".*mlp.*"}}, "exclude_modules"},
      {Json{{"layers_to_transform", 1}}, "layers_to_transform"},
      {Json{{"layers_to_transform", Json::array({1, 2})}, {"layers_pattern", "layers"}},
       "layers_to_transform"},
      {Json{{"layers_to_transform", Json::array({0})}, {"layers_pattern", Json::array({"h", "blocks"})}},
       "layers_to_transform"}};
  for (const auto& [settings, key] : wrong) {
    const std::string lora = adapter(pair(up_), settings);
    expect_complaint(nfloat({"convert", folder, path("out"), "--lora", lora}),
                     {"adapter_config.json", key, up_});
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }
  for (const Json& settings :
       {Json{{"r", 0}}, Json{{"r", "four"}}, Json{{"rank_pattern", Json{{"up_proj", 2.5}}}},
        Json{{"target_modules", Json::array({3})}}, Json{{"layers_to_transform", "first"}}})
    expect_complaint(nfloat({"convert", folder, path("out"), "--lora", adapter(pair(up_), settings)}),
                     {"adapter_config.json", settings.items().begin()->first});

  for (const Json& settings :
       {Json{{"r", 1}, {"rank_pattern", Json{{"up_proj", kRank}}}, {"target_modules", "all-linear"}},
        Json{{"r", 1}, {"rank_pattern", Json{{"^model\\.layers\\.0\\.mlp\\.up_proj", kRank}}}},
        Json{{"r", nullptr}, {"target_modules", nullptr}, {"exclude_modules", Json::array({"proj"})}},
        Json{{"target_modules", Json::array({"q_proj", "up_proj"})}, {"layers_to_transform", 0}},
        Json{{"target_modules", ".*(up|down)_proj"}, {"exclude_modules", "up_proj"}},
        Json{{"target_modules", R"((?i)(?P<layer>[^\W\d]+\.){2}\d{1,2}+[[.]mlp\.UP_proj\Z)"}},
        Json{{"target_modules", Json::array({up_})}, {"layers_to_transform", Json::array({7})}},
        Json{{"layers_to_transform", Json::array({2, 0})}, {"layers_pattern", Json::array({"h", "layers"})}}})
    expect_added(merged(folder, adapter(pair(up_), settings)), up_ + ".weight", 8.0 / kRank);
}

TEST_F(Adapter, AConv1DOfAFamilyThatIsNotKnownIsNotGuessed) {
  const std::string folder = base(attn_, Json{{"model_type", "a_gpt_of_next_year"}});
  expect_complaint(
      nfloat({"convert", folder, path("x"), "--lora", adapter(pair(attn_), Json{{"fan_in_fan_out", true}})}),
      {attn_, "Conv1D", "fan_in_fan_out"});
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
  const Json settings{{"bias", "lora_only"},
                      {"modules_to_save", Json::array({"classifier", "score", "ln_f"})}};
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
  // What is announced and not there, or not in the base.
  const auto refused = [&](const Json& more, const std::vector<std::string>& words) {
    expect_complaint(nfloat({"convert", folder, path("x"), "--lora", adapter(tensors, more)}), words);
  };
  refused(Json{{"modules_to_save", Json::array({"wte"})}}, {"modules_to_save", "wte"});
  tensors["base_model.model.lm_head.weight"] = random_values({20, 8}, 10);
  refused(settings, {"lm_head"});
  tensors.erase("base_model.model.lm_head.weight");
  tensors["base_model.model.transformer.wte.token_adapter.trainable_tokens_delta"] =
      random_values({2, 8}, 10);
  refused(settings, {"trainable_tokens_delta"});
  tensors.erase("base_model.model.transformer.wte.token_adapter.trainable_tokens_delta");
}

// Embedding and head of one matrix: what an adapter does to one of them is not done to the other.
TEST_F(Adapter, ATiedMatrixBecomesTwo) {
  const std::string table = "model.embed_tokens", head = "lm_head.weight";
  const Values a = random_values({kRank, 8}, 8), b = random_values({20, kRank}, 9);
  const auto folder = [&](Json config) {
    return base(up_, config, {{table + ".weight", random_values({20, 8}, 21)}});
  };
  const Json tied{{"model_type", "llama"}, {"tie_word_embeddings", true}};
  const auto changed = [&](const Values& values) {
    double most = 0;
    for (size_t i = 0; i < values.at.size(); ++i)
      most = std::max(most, std::abs(values.at[i] - base_[table + ".weight"].at[i]));
    return most > 1e-6;
  };
  const auto expect_sum = [&](const Values& values) {
    for (int64_t row = 0; row < 20; ++row)
      for (int64_t col = 0; col < 8; ++col) {
        double sum = base_[table + ".weight"](row, col);
        for (int64_t k = 0; k < kRank; ++k) sum += 2 * b(row, k) * a(k, col);
        ASSERT_NEAR(values(row, col), sum, 1e-6);
      }
  };
  const Tensors of_head{{"base_model.model.lm_head.lora_A.weight", a},
                        {"base_model.model.lm_head.lora_B.weight", b}};
  Tensors result = merged(folder(tied), adapter(of_head));
  ASSERT_TRUE(result.contains(head));
  expect_sum(result[head]);
  EXPECT_FALSE(changed(result[table + ".weight"]));
  EXPECT_EQ(Json::parse(read_file(path("out/config.json")))["tie_word_embeddings"], Json(false));
  // Without the key, a model without a head is tied.
  EXPECT_TRUE(merged(folder(Json{{"model_type", "llama"}}), adapter(of_head)).contains(head));

  // The embedding's own pair, [rank, rows] and [columns, rank].
  Values turned_a{{kRank, 20}, std::vector<double>(kRank * 20)},
      turned_b{{8, kRank}, std::vector<double>(8 * kRank)};
  for (int64_t k = 0; k < kRank; ++k) {
    for (int64_t row = 0; row < 20; ++row) turned_a.at[static_cast<size_t>(k * 20 + row)] = b(row, k);
    for (int64_t col = 0; col < 8; ++col) turned_b.at[static_cast<size_t>(col * kRank + k)] = a(k, col);
  }
  Tensors of_table{{"base_model.model." + table + ".lora_embedding_A", turned_a},
                   {"base_model.model." + table + ".lora_embedding_B", turned_b}};
  result = merged(folder(tied), adapter(of_table));
  expect_sum(result[table + ".weight"]);
  EXPECT_FALSE(changed(result[head]));

  // The same change of both, and one that the adapter says is of both, keep the tie.
  Tensors both = of_table;
  both.insert(of_head.begin(), of_head.end());
  for (const auto& [tensors, settings] :
       {std::pair{both, Json::object()}, {of_table, Json{{"ensure_weight_tying", true}}}}) {
    result = merged(folder(tied), adapter(tensors, settings));
    EXPECT_FALSE(result.contains(head));
    expect_sum(result[table + ".weight"]);
  }

  // A trained copy is of its module alone, what was saved of the base of both.
  const Tensors whole{{"base_model.model." + table + ".weight", random_values({20, 8}, 10)}};
  result = merged(folder(tied), adapter(whole, Json{{"modules_to_save", Json::array({"embed_tokens"})}}));
  EXPECT_TRUE(changed(result[table + ".weight"]));
  EXPECT_FALSE(changed(result[head]));
  result = merged(folder(tied), adapter(whole));
  EXPECT_TRUE(changed(result[table + ".weight"]));
  EXPECT_FALSE(result.contains(head));

  // More than two modules may share the matrix here.
  Json t5 = tied;
  t5["is_encoder_decoder"] = true;
  expect_complaint(nfloat({"convert", folder(t5), path("x"), "--lora", adapter(of_table)}), {"tie"});
}

TEST_F(Adapter, AnUntiedHeadGoesIntoAGgufFile) {
  std::filesystem::create_directories(path("tied"));
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
    write_file(path("tied/") + file, read_file(model() + "/" + file));
  Json config = Json::parse(read_file(model() + "/config.json"));
  config["tie_word_embeddings"] = true;
  write_file(path("tied/config.json"), config.dump());
  const Checkpoint tiny(model());
  Tensors tensors;
  for (const std::string& name : tiny.weight_names())
    if (name != "lm_head.weight") tensors[name] = read_values(tiny, name);
  write_tensors(path("tied/model.safetensors"), tensors);
  const std::vector<int64_t> shape = tensors["model.embed_tokens.weight"].shape;
  const std::string lora =
      adapter({{"base_model.model.lm_head.lora_A.weight", random_values({kRank, shape[1]}, 1)},
               {"base_model.model.lm_head.lora_B.weight", random_values({shape[0], kRank}, 2)}});
  for (const char* out : {"merged", "merged.gguf"}) {
    const Result result = nfloat({"convert", path("tied"), path(out), "--lora", lora, "--type", "f32"});
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_NE(result.out.find("merged: 1 "), std::string::npos) << result;
    EXPECT_NE((result.out + result.err).find("'lm_head.weight' is new"), std::string::npos) << result;
  }
  const Checkpoint folder(path("merged")), file(path("merged.gguf"));
  ASSERT_NE(file.find("lm_head.weight"), nullptr);
  EXPECT_EQ(read_values(folder, "lm_head.weight").at, read_values(file, "lm_head.weight").at);
  EXPECT_NE(read_values(folder, "lm_head.weight").at, tensors["model.embed_tokens.weight"].at);
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

// What is left of a small change after rounding to 4 bits, and how to keep it.
class AdapterInFourBits : public Adapter {
 protected:
  // Of one weight of nfloat-tiny, `size` of its root mean square, elements independent of one another.
  std::string small_adapter(const std::string& module, double size) {
    const Values weight = read_values(Checkpoint(model()), module + ".weight");
    Values a = random_values({kRank, weight.shape[1]}, 1), b = random_values({weight.shape[0], kRank}, 2);
    double square = 0;
    for (const double value : weight.at) square += value * value;
    // The variance of a's and b's elements is 0.01.
    const double factor =
        size * std::sqrt(square / static_cast<double>(weight.at.size())) / (0.01 * std::sqrt(kRank));
    for (double& value : b.at) value *= factor;
    a_ = a;
    b_ = b;
    return adapter({{"base_model.model." + module + ".lora_A.weight", a},
                    {"base_model.model." + module + ".lora_B.weight", b}},
                   Json{{"lora_alpha", kRank}});
  }
  Values decoded(const std::string& folder, const std::string& weight) {
    std::filesystem::remove_all(path("decoded"));
    EXPECT_TRUE(nfloat({"dequantize", folder, path("decoded"), "--dtype", "f32"}).ok());
    return read_values(Checkpoint(path("decoded")), weight);
  }
  // <after - before, B A> / <B A, B A> and |after - before - B A| / |B A|.
  std::pair<double, double> left(const Values& after, const Values& before) const {
    double product = 0, wanted = 0, error = 0;
    for (int64_t row = 0; row < before.shape[0]; ++row)
      for (int64_t col = 0; col < before.shape[1]; ++col) {
        double change = 0;
        for (int64_t k = 0; k < kRank; ++k) change += b_(row, k) * a_(k, col);
        const double achieved = after(row, col) - before(row, col);
        product += achieved * change;
        wanted += change * change;
        error += (achieved - change) * (achieved - change);
      }
    return {product / wanted, std::sqrt(error / wanted)};
  }
  static Json tensor(const Json& result, const std::string& name) {
    for (const Json& one : result["tensors"])
      if (one["name"] == name) return one;
    return {};
  }
  Values a_, b_;
};

TEST_F(AdapterInFourBits, SaysWhatIsLeftAndKeepsItWithTheOriginal) {
  const std::string module = "model.layers.2.mlp.down_proj", weight = module + ".weight";
  ASSERT_TRUE(nfloat({"quantize", model(), path("base"), "--double-quant", "--block-size", "128"}).ok());
  const Values base = decoded(path("base"), weight), plain = read_values(Checkpoint(model()), weight);
  for (const double size : {0.02, 0.3}) {
    const std::string lora = small_adapter(module, size);
    for (const bool from_original : {false, true}) {
      const std::string out = path(std::to_string(size) + (from_original ? "-original" : "-base"));
      std::vector<std::string> command{"convert", path("base"), out,    "--lora",
                                       lora,      "--type",     "base", "--json"};
      if (from_original) command.insert(command.end(), {"--original", model()});
      const Result result = nfloat(command);
      ASSERT_TRUE(result.ok()) << result;
      EXPECT_TRUE(nfloat({"inspect", out, "--check"}).ok());
      const auto [share, error] = left(decoded(out, weight), from_original ? plain : base);
      const Json json = Json::parse(result.out);
      for (const Json& told : {json, tensor(json, weight)}) {
        EXPECT_NEAR(told["adapter_left"].get<double>(), share, 1e-4);
        EXPECT_NEAR(told["adapter_error"].get<double>(), error, 1e-3 * error);
      }
      EXPECT_EQ(result.err.find("of the adapter is left") != std::string::npos, share < 0.9) << result;
      if (share < 0.9) {
        EXPECT_NE(result.err.find("--original"), std::string::npos) << result;
      }
      if (from_original) {
        EXPECT_GT(share, 0.93);
        EXPECT_LT(share, 1.07);
      } else {
        EXPECT_GT(share, 0.85);
      }
      // The rest of the base as it was, and its description.
      const Checkpoint before(path("base")), after(out);
      for (const TensorInfo& info : before.tensors())
        if (!info.name.starts_with(weight)) {
          const TensorView x = before.view(info), y = after.view(info.name);
          ASSERT_EQ(x.bytes.size(), y.bytes.size());
          EXPECT_EQ(std::memcmp(x.bytes.data(), y.bytes.data(), x.bytes.size()), 0) << info.name;
        }
      EXPECT_EQ(before.quantized(weight).dtype, after.quantized(weight).dtype);
    }
  }
}

TEST_F(AdapterInFourBits, RefusesAnOriginalThatIsNot) {
  const std::string module = "model.layers.2.mlp.down_proj";
  ASSERT_TRUE(nfloat({"quantize", model(), path("base")}).ok());
  const std::string lora = small_adapter(module, 0.1);
  const auto refused = [&](const std::string& original, const std::vector<std::string>& words) {
    expect_complaint(nfloat({"convert", path("base"), path("x"), "--lora", lora, "--type", "base",
                             "--original", original}),
                     words);
    EXPECT_FALSE(std::filesystem::exists(path("x")));
  };
  refused(path("base"), {module, "plain"});
  Tensors other;
  const Checkpoint tiny(model());
  for (const std::string& name : tiny.weight_names()) other[name] = read_values(tiny, name);
  other[module + ".weight"] = random_values(other[module + ".weight"].shape, 77);
  std::filesystem::create_directories(path("other"));
  write_file(path("other/config.json"), read_file(model() + "/config.json"));
  write_tensors(path("other/model.safetensors"), other);
  refused(path("other"), {module, "not made from"});
  EXPECT_EQ(nfloat({"convert", path("base"), path("x"), "--lora", lora, "--original", model()}).exit_code, 2);
}

}  // namespace
}  // namespace nfloat::cli_test
