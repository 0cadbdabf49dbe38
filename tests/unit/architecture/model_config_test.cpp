// SPDX-License-Identifier: Apache-2.0
#include "nfloat/model_config.h"
#include "base/json.h"

#include <gtest/gtest.h>

#include "nfloat/error.h"

namespace nfloat {
namespace {

Json good() {
  return {{"model_type", "llama"},
          {"hidden_size", 2048},
          {"intermediate_size", 8192},
          {"num_hidden_layers", 16},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 8},
          {"vocab_size", 128256},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 131072},
          {"rope_theta", 500000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true},
          {"bos_token_id", 128000},
          {"eos_token_id", {128001, 128009}}};
}

ModelConfig parse(const Json& config) {
  return parse_model_config(config.dump(), "here/config.json");
}

// The error for `config`, or an empty one of no meaning.
Error error_of(const std::string& text) {
  try {
    parse_model_config(text, "here/config.json");
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error for " << text.substr(0, 200);
  return {ErrorCode::kIo, ""};
}

void expect_error(const Json& config, ErrorCode code, const std::string& part) {
  const Error error = error_of(config.dump());
  EXPECT_EQ(error.code(), code) << error.what();
  EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  EXPECT_NE(std::string(error.what()).find("here/config.json"), std::string::npos) << error.what();
}

Json with(const char* key, const Json& value) {
  Json config = good();
  config[key] = value;
  return config;
}

TEST(ModelConfig, NullTakesTheFamilysDefaultAway) {
  Json gemma = good();
  gemma["model_type"] = "gemma2";
  gemma["query_pre_attn_scalar"] = 256;
  EXPECT_EQ(parse(gemma).logit_softcap, 30);
  EXPECT_TRUE(parse(gemma).tied_head);
  gemma["final_logit_softcapping"] = nullptr;
  gemma["tie_word_embeddings"] = nullptr;
  gemma["hidden_activation"] = nullptr;  // beside "hidden_act": that one counts
  gemma["hidden_act"] = "gelu";
  EXPECT_EQ(parse(gemma).logit_softcap, 0);
  EXPECT_EQ(parse(gemma).attention_softcap, 50);
  EXPECT_FALSE(parse(gemma).tied_head);
  EXPECT_EQ(parse(gemma).activation, Activation::kGelu);
}

TEST(ModelConfig, ScalingLengthensTheContext) {
  const auto context = [](const Json& scaling) {
    Json config = with("rope_scaling", scaling);
    config["max_position_embeddings"] = 1000;
    return parse(config).context;
  };
  EXPECT_EQ(context({{"rope_type", "yarn"}, {"factor", 3.0}, {"original_max_position_embeddings", 700}}),
            2100);
  EXPECT_EQ(context({{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 250}}),
            1000);
  EXPECT_EQ(context({{"rope_type", "yarn"}, {"factor", nullptr}, {"original_max_position_embeddings", 250}}),
            1000);
  EXPECT_EQ(context({{"type", "linear"}, {"factor", 2.5}}), 2500);
  EXPECT_EQ(context({{"rope_type", "dynamic"}, {"factor", 2.5}}), 1000);
}

TEST(ModelConfig, ReadsLlama32) {
  Json config = good();
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 32.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  const ModelConfig found = parse(config);
  EXPECT_EQ(found.head_dim, 64);
  EXPECT_EQ(found.kv_size(), 512);
  EXPECT_EQ(found.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(found.rope.factor, 32);
  EXPECT_EQ(found.eos_tokens, (std::vector<int32_t>{128001, 128009}));
  EXPECT_EQ(found.parameters(), 1235814400);  // as the model's card says
}

TEST(ModelConfig, ReadsRopeParametersOfTransformers5) {
  Json config = good();
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 12345.0}};
  const ModelConfig found = parse(config);
  EXPECT_EQ(found.rope.theta, 12345);
  EXPECT_EQ(found.rope.scaling, RopeScaling::kNone);
}

TEST(ModelConfig, ChoosesTheFamily) {
  Json config = good();
  config.erase("model_type");
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = 4096;
  EXPECT_EQ(parse(config).family, "mistral");
  EXPECT_EQ(parse(config).sliding_window, 4096);
  EXPECT_EQ(parse(with("sliding_window", 4096)).sliding_window, 0) << "Llama has no window";
}

TEST(ModelConfig, NamesWhatItDoesNotKnow) {
  Json config = with("model_type", "mamba2");
  config["architectures"] = {"Mamba2ForCausalLM"};
  expect_error(config, ErrorCode::kUnsupported, "Mamba2ForCausalLM");
  expect_error(config, ErrorCode::kUnsupported, "llama, mistral");
  expect_error(with("hidden_act", "relu2"), ErrorCode::kUnsupported, "relu2");
  expect_error(with("rope_scaling", {{"rope_type", "ntk"}, {"factor", 4.0}}), ErrorCode::kUnsupported, "ntk");
}

TEST(ModelConfig, KeysOfOtherFamiliesAreRefusedUnlessTheyChangeNothing) {
  const auto layers = static_cast<size_t>(parse(good()).layers);
  Json still = Json(std::vector<int>(layers, 1));
  EXPECT_EQ(parse(with("no_rope_layers", still)).layers, parse(good()).layers);
  still[1] = 0;
  const std::pair<const char*, Json> changing[] = {
      {"logits_scaling", 8.0},          {"query_pre_attn_scalar", 256},   {"no_rope_layers", still},
      {"attention_scale", 0.3},         {"no_rope_layer_interval", 4},    {"embedding_scale", 12.0},
      {"residual_scale", 0.2},          {"attention_softcap", 50.0},      {"logit_softcap", 30.0},
      {"embedding_multiplier", 12.0},   {"attention_multiplier", 0.3},    {"residual_multiplier", 0.2},
      {"attn_logit_softcapping", 50.0}, {"final_logit_softcapping", 30.0}};
  for (const auto& [key, value] : changing) {
    expect_error(with(key, value), ErrorCode::kUnsupported, key);
    expect_error(with(key, value), ErrorCode::kUnsupported, "llama");
  }
  EXPECT_EQ(parse(with("logits_scaling", 1)).logit_scale, 1);
  for (const char* key :
       {"logits_scaling", "embedding_multiplier", "attention_multiplier", "residual_multiplier"})
    for (const Json& neutral : {Json(1), Json(nullptr)}) parse(with(key, neutral));
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"})
    for (const Json& neutral : {Json(0), Json(nullptr)}) parse(with(key, neutral));
  parse(with("query_pre_attn_scalar", parse(good()).head_dim));
  Json near = with("layer_types", Json(std::vector<std::string>(layers, "sliding_attention")));
  EXPECT_EQ(parse(near).each_layer[0].window, 0);
  near["sliding_window"] = 64;
  expect_error(near, ErrorCode::kUnsupported, "layer_types");
  Json granite = with("logits_scaling", 8.0);
  granite["model_type"] = "granite";
  EXPECT_EQ(parse(granite).logit_scale, 0.125);
  expect_error(
      [&] {
        granite["query_pre_attn_scalar"] = 256;
        return granite;
      }(),
      ErrorCode::kUnsupported, "query_pre_attn_scalar");
}

TEST(ModelConfig, RejectsWhatCannotBe) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    Json config = good();
    config.erase(key);
    expect_error(config, ErrorCode::kMalformedFile, key);
    for (const Json& value : {Json(0), Json(-3), Json(1e300), Json("8"), Json(uint64_t{1} << 63), Json(1.5),
                              Json::array({4}), Json(int64_t{1} << 40)})
      expect_error(with(key, value), ErrorCode::kMalformedFile, key);
  }
  expect_error(with("num_key_value_heads", 7), ErrorCode::kMalformedFile, "no multiple of 7");
  expect_error(with("num_attention_heads", 24), ErrorCode::kMalformedFile, "no multiple of 24");
  expect_error(with("head_dim", 63), ErrorCode::kMalformedFile, "even");
  expect_error(with("rms_norm_eps", -1), ErrorCode::kMalformedFile, "rms_norm_eps");
  expect_error(with("rope_theta", 0), ErrorCode::kMalformedFile, "rope_theta");
  expect_error(with("tie_word_embeddings", "yes"), ErrorCode::kMalformedFile, "tie_word_embeddings");
  expect_error(with("eos_token_id", {1, 128256}), ErrorCode::kMalformedFile, "eos_token_id");
  expect_error(with("rope_scaling", 4), ErrorCode::kMalformedFile, "rope_scaling");
  expect_error(with("rope_scaling", {{"type", "linear"}}), ErrorCode::kMalformedFile, "factor");
  expect_error(with("rope_scaling", {{"type", "llama3"},
                                     {"factor", 8.0},
                                     {"low_freq_factor", 4.0},
                                     {"high_freq_factor", 4.0},
                                     {"original_max_position_embeddings", 64}}),
               ErrorCode::kMalformedFile, "high_freq_factor");
}

TEST(ModelConfig, RejectsHostileText) {
  EXPECT_EQ(error_of("").code(), ErrorCode::kMalformedFile);
  EXPECT_EQ(error_of("[]").code(), ErrorCode::kMalformedFile);
  EXPECT_EQ(error_of("{\"model_type\": \"llama\"").code(), ErrorCode::kMalformedFile);
  EXPECT_EQ(error_of(std::string(100000, '[')).code(), ErrorCode::kMalformedFile);
  EXPECT_EQ(error_of("\"" + std::string(2 << 20, 'x') + "\"").code(), ErrorCode::kMalformedFile);
  EXPECT_EQ(error_of("{\"model_type\": \"\xff\xfe\"}").code(), ErrorCode::kMalformedFile);
}

}  // namespace
}  // namespace nfloat
