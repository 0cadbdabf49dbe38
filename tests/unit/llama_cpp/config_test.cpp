// SPDX-License-Identifier: Apache-2.0
// Keys of GGUF files that change what a model computes: read, or refused by name unless their value changes
// nothing.
#include "llama_cpp/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "nfloat/error.h"
#include "support/files.h"

namespace nfloat {
namespace {

using Edit = std::function<void(GgufMetadata&)>;

class GgufConfig : public testing::TemporaryFolder {
 protected:
  // config.json of a file with two heads of 8 elements, or the sentence why there is none.
  std::string config_or_error(const std::string& architecture, const Edit& edit) const {
    GgufMetadata metadata;
    metadata.text("general.architecture", architecture);
    for (const auto& [name, value] :
         std::vector<std::pair<std::string, uint32_t>>{{"block_count", 1},
                                                       {"context_length", 64},
                                                       {"embedding_length", 16},
                                                       {"feed_forward_length", 24},
                                                       {"attention.head_count", 2}})
      metadata.u32(architecture + "." + name, value);
    edit(metadata);
    const std::string file = path("model.gguf");
    GgufWriter writer(file, metadata, {{"token_embd.weight", GgufType::kF32, Shape({4, 16})}});
    const std::vector<std::byte> zeros(4 * 16 * sizeof(float));
    writer.write(0, 0, zeros);
    writer.commit();
    try {
      return huggingface_config(GgufFile(file));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), refusal_) << error.what();
      return error.what();
    }
  }

  ErrorCode refusal_ = ErrorCode::kUnsupported;  // expected of errors
};

TEST_F(GgufConfig, KeysThatChangeTheResultAreRefusedByName) {
  for (const char* name :
       {"attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale", "residual_scale", "embedding_scale",
        "attn_logit_softcapping", "final_logit_softcapping", "attention.output_scale", "expert_group_scale",
        "rope.scaling.yarn_log_multiplier", "rope.scaling.alpha"}) {
    const std::string key = std::string("llama.") + name;
    EXPECT_NE(
        config_or_error("llama", [&](GgufMetadata& m) { m.f32(key, 2.5F); }).find("\"" + key + "\" is 2.5"),
        std::string::npos)
        << key;
  }
  for (const char* name :
       {"expert_shared_count", "leading_dense_block_count", "expert_group_count", "expert_group_used_count",
        "moe_every_n_layers", "interleave_moe_layer_step", "expert_gating_func", "nextn_predict_layers",
        "attention.q_lora_rank", "attention.kv_lora_rank", "attention.group_norm_groups", "swin_norm",
        "rescale_every_n_layers"}) {
    const std::string key = std::string("llama.") + name;
    EXPECT_NE(config_or_error("llama", [&](GgufMetadata& m) { m.u32(key, 2); }).find("\"" + key + "\" is 2"),
              std::string::npos)
        << key;
  }
}

TEST_F(GgufConfig, KeysThatChangeNothingPass) {
  const std::string config = config_or_error("llama", [](GgufMetadata& m) {
    m.f32("llama.logit_scale", 1);
    m.f32("llama.attention.clamp_kqv", 0);
    m.u32("llama.expert_gating_func", 1);
    m.u32("llama.nextn_predict_layers", 0);
    m.u32("llama.interleave_moe_layer_step", 1);
    m.flag("llama.attention.causal", true);
    m.f32("llama.attention.scale", 0.35355339F);
    m.u32("llama.vocab_size", 4);
    m.u32("general.quantization_version", 2);
  });
  EXPECT_NE(config.find("\"model_type\": \"llama\""), std::string::npos) << config;
}

// The factor that changes nothing depends on the file: 8 elements a head here, 4 there.
TEST_F(GgufConfig, NeutralScalesAreThoseOfTheFile) {
  const auto with_heads_of_4 = [](float scale) {
    return [scale](GgufMetadata& m) {
      m.u32("llama.attention.key_length", 4);
      m.u32("llama.attention.value_length", 4);
      m.f32("llama.attention.scale", scale);
    };
  };
  EXPECT_NE(config_or_error("llama", with_heads_of_4(0.5F)).find("\"head_dim\": 4"), std::string::npos);
  EXPECT_NE(config_or_error("llama", with_heads_of_4(0.35355339F)).find("\"llama.attention.scale\" is"),
            std::string::npos);
}

TEST_F(GgufConfig, TheFactorOfCosinesIsComputedOrRefused) {
  const auto config = [&](const char* type, float factor) {
    return config_or_error("llama", [&](GgufMetadata& m) {
      m.f32("llama.rope.scaling.attn_factor", factor);
      m.f32("llama.rope.scaling.factor", 2);
      m.text("llama.rope.scaling.type", type);
    });
  };
  for (const char* type : {"none", "linear"}) {
    EXPECT_NE(config(type, 1.5F).find("\"llama.rope.scaling.attn_factor\" is 1.5"), std::string::npos)
        << type;
    EXPECT_EQ(config(type, 1).find("attn_factor"), std::string::npos) << type;
  }
  EXPECT_NE(config("yarn", 1.5F).find("\"attention_factor\": 1.6"), std::string::npos);
}

// JSON has no such numbers: they would become null, and the family's default would count.
TEST_F(GgufConfig, NumbersThatAreNotFiniteAreRefusedByName) {
  refusal_ = ErrorCode::kMalformedFile;
  for (const char* name : {"attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor",
                           "rope.scale_linear", "rope.scaling.attn_factor", "logit_scale"}) {
    const std::string key = std::string("llama.") + name;
    for (const float value : {NAN, INFINITY, -INFINITY})
      EXPECT_NE(config_or_error("llama", [&](GgufMetadata& m) { m.f32(key, value); })
                    .find("metadata \"" + key + "\" is "),
                std::string::npos)
          << key << " " << value;
  }
}

}  // namespace
}  // namespace nfloat
