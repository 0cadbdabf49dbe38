// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "architecture/skip_list.h"
#include "architecture/tensor_roles.h"

namespace nfloat {
namespace {

TensorRole role(const std::string& config, const std::string& module, const Shape& shape = Shape({48, 32})) {
  return TensorRoles(Json::parse(config)).of(module + ".weight", shape);
}

TensorRole of_type(const std::string& type, const std::string& module, const Shape& shape = Shape({48, 32})) {
  return role(R"({"model_type": ")" + type + R"("})", module, shape);
}

TEST(TensorRoles, ShapesComeFirst) {
  EXPECT_EQ(of_type("llama", "model.norm", Shape({32})), TensorRole::kNorm);
  EXPECT_EQ(of_type("qwen2_vl", "visual.patch_embed.proj", Shape({8, 3, 14, 14})), TensorRole::kConvolution);
  EXPECT_EQ(of_type("dbrx", "model.layers.0.mlp.experts.up", Shape({4, 8, 8})), TensorRole::kExpert);
  EXPECT_EQ(TensorRoles(Json()).of("query_tokens", Shape({32, 32})), TensorRole::kOther);
  EXPECT_EQ(TensorRoles(Json()).of("layer.relative_position_bias_table", Shape({32, 4})), TensorRole::kOther);
}

TEST(TensorRoles, TablesAndHeadsThatMayBeOneMatrix) {
  const TensorRoles llama(Json{{"model_type", "llama"}}), bert(Json{{"model_type", "bert"}});
  for (const char* name : {"model.embed_tokens.weight", "transformer.wte.weight", "lm_head.weight",
                           "model.language_model.embed_tokens.weight", "language_model.lm_head.weight"})
    EXPECT_TRUE(llama.may_be_tied(name)) << name;
  for (const char* name : {"transformer.wpe.weight", "model.layers.0.mlp.down_proj.weight",
                           "model.norm.weight", "cls.predictions.decoder.weight"})
    EXPECT_FALSE(llama.may_be_tied(name)) << name;
  EXPECT_TRUE(bert.may_be_tied("cls.predictions.decoder.weight"));
}

TEST(TensorRoles, T5KeepsWoAndOthersDoNot) {
  EXPECT_EQ(of_type("umt5", "decoder.block.3.layer.2.DenseReluDense.wo"), TensorRole::kKeptFloat);
  EXPECT_EQ(of_type("umt5", "decoder.block.3.layer.2.DenseReluDense.wi_1"), TensorRole::kLinear);
  EXPECT_EQ(of_type("switch_transformers", "encoder.block.1.layer.1.mlp.experts.expert_2.wo"),
            TensorRole::kKeptFloat);
  EXPECT_EQ(role(R"({"architectures": ["LongT5ForConditionalGeneration"]})", "a.wo"), TensorRole::kKeptFloat);
  EXPECT_EQ(of_type("internlm2", "model.layers.0.attention.wo"), TensorRole::kLinear);
  // Only where the part is: the decoder's own "wo" is a usual layer.
  const std::string composite = R"({"model_type": "musicgen", "text_encoder": {"model_type": "mt5"}})";
  EXPECT_EQ(role(composite, "text_encoder.encoder.block.0.layer.1.mlp.wo"), TensorRole::kKeptFloat);
  EXPECT_EQ(role(composite, "decoder.layers.0.wo"), TensorRole::kLinear);
  EXPECT_EQ(of_type("instructblip", "qformer.encoder.layer.0.attention.attention.query"),
            TensorRole::kKeptFloat);
}

TEST(TensorRoles, HeadsUnderEveryName) {
  for (const char* name :
       {"qa_outputs", "score", "classifier", "text_projection", "lm_head", "embed_out", "decoder.lm_heads.3",
        "bert.pooler.dense", "classification_head.out_proj", "cls.predictions.decoder", "vocab_projector"})
    EXPECT_EQ(of_type("some", name), TensorRole::kHead) << name;
  EXPECT_EQ(of_type("rwkv", "head"), TensorRole::kHead);
  EXPECT_EQ(of_type("bert", "bert.encoder.layer.0.output.dense"), TensorRole::kLinear);
  EXPECT_EQ(of_type("flux", "single_transformer_blocks.0.proj_out"), TensorRole::kLinear);
  // By its size, when the name says nothing.
  const std::string vocabulary = R"({"model_type": "new", "text_config": {"vocab_size": 5000}})";
  EXPECT_EQ(role(vocabulary, "model.readout", Shape({5000, 32})), TensorRole::kHead);
  EXPECT_EQ(role(vocabulary, "model.layers.0.up", Shape({5000, 32})), TensorRole::kLinear);
}

TEST(TensorRoles, EmbeddingsInListsAndLinearLayersNamedLikeThem) {
  EXPECT_EQ(of_type("parler_tts", "decoder.model.decoder.embed_tokens.8"), TensorRole::kEmbedding);
  EXPECT_EQ(of_type("bark", "fine_acoustics.input_embeds_layers.7"), TensorRole::kEmbedding);
  EXPECT_EQ(of_type("openai-gpt", "transformer.tokens_embed"), TensorRole::kEmbedding);
  EXPECT_EQ(of_type("convbert", "convbert.embeddings_project"), TensorRole::kLinear);
  EXPECT_EQ(of_type("gemma3n", "model.embed_audio.embedding_projection"), TensorRole::kLinear);
  EXPECT_EQ(of_type("albert", "albert.encoder.embedding_hidden_mapping_in"), TensorRole::kEmbeddingOrLinear);
  EXPECT_EQ(of_type("decision_transformer", "embed_state"), TensorRole::kEmbeddingOrLinear);
  EXPECT_EQ(of_type("canine", "canine.char_embeddings.HashBucketCodeEmbedder_3"),
            TensorRole::kEmbeddingOrLinear);
}

TEST(TensorRoles, RoutersUnderEveryName) {
  EXPECT_EQ(of_type("granitemoe", "model.layers.1.block_sparse_moe.router.layer"), TensorRole::kRouter);
  EXPECT_EQ(of_type("nllb-moe", "encoder.layers.3.ffn.router.classifier"), TensorRole::kRouter);
  EXPECT_EQ(of_type("qwen2_moe", "model.layers.1.mlp.shared_expert_gate"), TensorRole::kRouter);
  EXPECT_EQ(of_type("gemma3n", "model.language_model.layers.2.altup.modality_router"), TensorRole::kRouter);
  EXPECT_EQ(of_type("qwen2_moe", "model.layers.1.mlp.experts.3.gate_proj"), TensorRole::kLinear);
  const std::string experts = R"({"model_type": "new", "ffn_config": {"moe_num_experts": 48}})";
  EXPECT_EQ(role(experts, "model.layers.1.mlp.chooser"), TensorRole::kRouter);
  EXPECT_EQ(role(experts, "model.layers.1.self_attn.k"), TensorRole::kLinear);
  EXPECT_EQ(role(experts, "model.layers.1.mlp.chooser", Shape({32, 48})), TensorRole::kLinear);
}

TEST(TensorRoles, Conv1DByModelAndPart) {
  EXPECT_EQ(of_type("decision_transformer", "encoder.h.1.mlp.c_proj"), TensorRole::kConv1D);
  EXPECT_EQ(of_type("clvp", "speech_decoder_model.model.decoder.layers.0.mlp.c_fc"), TensorRole::kConv1D);
  EXPECT_EQ(of_type("gpt2", "transformer.h.0.crossattention.q_attn"), TensorRole::kConv1D);
  EXPECT_EQ(of_type("gpt_bigcode", "transformer.h.0.attn.c_attn"), TensorRole::kLinear);
  EXPECT_EQ(of_type("gpt_neo", "transformer.h.0.mlp.c_fc"), TensorRole::kLinear);
  EXPECT_EQ(role(R"({"architectures": ["OpenAIGPTLMHeadModel"]})", "transformer.h.0.mlp.c_fc"),
            TensorRole::kConv1D);
  const std::string captions = R"({"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit"},
                                   "decoder": {"model_type": "gpt2"}})";
  EXPECT_EQ(role(captions, "decoder.transformer.h.0.attn.c_proj"), TensorRole::kConv1D);
  EXPECT_EQ(role(captions, "encoder.layers.0.c_proj"), TensorRole::kLinear);
}

TEST(TensorRoles, TheOutputEmbeddingHasItsClassName) {
  EXPECT_EQ(TensorRoles(Json::parse(R"({"model_type": "mistral"})")).output_embedding(), "lm_head");
  EXPECT_EQ(TensorRoles(Json::parse(R"({"model_type": "whisper"})")).output_embedding(), "proj_out");
  EXPECT_EQ(TensorRoles(Json::parse(R"({"architectures": ["DistilBertForMaskedLM"]})")).output_embedding(),
            "vocab_projector");
}

TEST(SkipList, NamesByBeginningEndAndExpression) {
  const SkipList list({"lm_head", "model.layers.1.mlp.gate", "vision_tower\\..*\\.fc[12]", "(broken"});
  EXPECT_EQ(list.find("lm_head"), "lm_head");
  EXPECT_EQ(list.find("text.lm_head"), "lm_head");
  EXPECT_EQ(list.find("lm_head.dense"), "lm_head");
  EXPECT_EQ(list.find("model.layers.1.mlp.gate_proj"), "model.layers.1.mlp.gate");
  EXPECT_EQ(list.find("model.layers.11.mlp.gate"), "");
  EXPECT_EQ(list.find("vision_tower.layers.0.fc2"), "vision_tower\\..*\\.fc[12]");
  EXPECT_EQ(list.find("a.vision_tower.layers.0.fc2"), "");
  EXPECT_EQ(list.find("a.lm_head.dense"), "");
  EXPECT_TRUE(list.may_name("a.lm_head.dense"));
  EXPECT_FALSE(list.may_name("a.my_lm_heads.dense"));
}

}  // namespace
}  // namespace nfloat
