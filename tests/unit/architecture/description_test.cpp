// SPDX-License-Identifier: Apache-2.0
#include "architecture/description.h"

#include <gtest/gtest.h>

#include "architecture/config_reader.h"
#include "architecture/tensor_roles.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

Json config_of(const std::string& family, const std::string& more = "") {
  const std::string text =
      R"({"hidden_size": 64, "intermediate_size": 96, "ffn_dim": 96, "num_hidden_layers": 4,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1000,
          "max_position_embeddings": 128, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128,
          "word_embed_proj_dim": 32, "num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2,
          "moe_intermediate_size": 48, "attention_bias": true, "mlp_bias": true)";
  return Json::parse(text + more + R"(, "model_type": ")" + family + R"("})");
}

ModelDescription describe(const std::string& family, const std::string& more = "") {
  return describe_model(config_of(family, more), "config.json");
}

// What a tensor is follows from the family's table and from its name alone: the two agree, for experts in
// one tensor and one by one.
TEST(ModelDescription, RolesByTableAndByNameAgree) {
  int families_seen = 0;
  for (const Family& family : families()) {
    if (!family.runs()) continue;
    SCOPED_TRACE(family.name);
    ++families_seen;
    const Json json = config_of(family.name);
    const TensorRoles roles(json);
    const ModelConfig config = parse_model_config(json.dump(), "config.json");
    for (const ExpertLayout layout : {ExpertLayout::kSingle, ExpertLayout::kFused})
      for (const ExpectedTensor& tensor : expected_tensors(config, layout))
        EXPECT_EQ(static_cast<int>(roles.of(tensor.name, tensor.shape)), static_cast<int>(tensor.role))
            << tensor.name;
  }
  EXPECT_EQ(families_seen, static_cast<int>(model_families().size()));
}

// The counts are those of the tensors that the loader asks for.
TEST(ModelDescription, WhatRunsIsCountedByItsTensors) {
  for (const std::string& family : model_families()) {
    SCOPED_TRACE(family);
    const ModelDescription description = describe(family);
    const ModelConfig config = parse_model_config(config_of(family).dump(), "config.json");
    EXPECT_EQ(description.size.parameters(), config.parameters());
    EXPECT_EQ(description.size.why_not, "");
    ASSERT_EQ(description.layers.size(), static_cast<size_t>(config.layers));
    for (int64_t i = 0; i < config.layers; ++i) {
      EXPECT_EQ(description.layers[static_cast<size_t>(i)].window, config.layer(i).window);
      EXPECT_EQ(description.layers[static_cast<size_t>(i)].experts, config.layer(i).experts);
    }
  }
}

TEST(ModelDescription, WhatDoesNotRunIsCountedAndSaysWhy) {
  const ModelDescription falcon = describe("falcon");
  EXPECT_EQ(falcon.size.why_not, "falcon does not run here");
  EXPECT_TRUE(falcon.tensors.empty());
  EXPECT_GT(falcon.size.parameters(), 0);
  EXPECT_EQ(describe("no_such").size.why_not, "model_type 'no_such' is not known");
  // A family that runs, with a setting that the forward pass does not have.
  const ModelDescription llama = describe("llama", R"(, "hidden_act": "hinge")");
  EXPECT_NE(llama.size.why_not.find("hinge"), std::string::npos);
  EXPECT_EQ(llama.size.parameters(), describe("llama").size.parameters());
  EXPECT_EQ(llama.size.max_context, 128);
  // The text of a model that sees has the shapes of the family that it is like.
  const ModelDescription sees = describe("qwen2_vl");
  EXPECT_EQ(sees.size.parameters(), describe("qwen2").size.parameters());
  EXPECT_EQ(sees.size.model_type, "qwen2_vl");
  EXPECT_NE(sees.size.why_not, "");
}

TEST(ModelDescription, DefaultsAreThoseOfTransformers) {
  // A Mistral whose configuration does not speak of a window has one of 4096, null takes it away.
  EXPECT_EQ(describe("mistral").layers.front().window, 4096);
  EXPECT_EQ(parse_model_config(config_of("mistral").dump(), "").sliding_window, 4096);
  EXPECT_EQ(describe("mistral", R"(, "sliding_window": null)").layers.front().window, 0);
  // Llama has none, whatever its configuration says.
  EXPECT_EQ(describe("llama", R"(, "sliding_window": 64)").layers.front().window, 0);
  const Json mixtral = Json::parse(
      R"({"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 4, "vocab_size": 100})");
  EXPECT_EQ(describe_model(mixtral, "").size.experts, 8);
  // Gemma 3 leaves out most of its sizes.
  const ModelDescription gemma = describe_model(Json::parse(R"({"model_type": "gemma3_text"})"), "");
  EXPECT_EQ(gemma.size.layers, 26);
  EXPECT_EQ(gemma.size.hidden, 2304);
}

TEST(ModelDescription, TheContextIsTheStretchedOne) {
  const char* yarn =
      R"(, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})";
  EXPECT_EQ(describe("qwen2", yarn).size.max_context, 512);
  EXPECT_EQ(parse_model_config(config_of("qwen2", yarn).dump(), "").context, 512);
}

TEST(ModelDescription, TextPartsAreReadWhereverTheyAre) {
  Json whole = Json::object();
  whole["model_type"] = "gemma3";
  whole["vision_config"] = Json::object();
  whole["tie_word_embeddings"] = false;
  whole["text_config"] = config_of("gemma3_text");
  const ModelDescription description = describe_model(whole, "");
  EXPECT_FALSE(description.size.tied_head);
  EXPECT_EQ(description.size.why_not, "");
  ASSERT_EQ(description.size.left_out.size(), 1u);
  EXPECT_NE(description.size.left_out[0].find("vision_config"), std::string::npos);
  EXPECT_EQ(parse_model_config(whole.dump(), "").family, "gemma3_text");
}

TEST(ModelDescription, LayersByKind) {
  const Json jamba = Json::parse(
      R"({"model_type": "jamba", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8,
          "num_attention_heads": 4, "vocab_size": 100})");
  const ModelDescription description = describe_model(jamba, "");
  ASSERT_EQ(description.layers.size(), 8u);
  EXPECT_TRUE(description.layers[4].attention);
  EXPECT_TRUE(description.layers[5].recurrent);
  EXPECT_TRUE(description.layers[5].experts);
  EXPECT_TRUE(description.layers[6].feed_forward);
}

}  // namespace
}  // namespace nfloat
