// SPDX-License-Identifier: Apache-2.0
#include "architecture/wrapped_names.h"

#include <gtest/gtest.h>

namespace nfloat {
namespace {

TEST(WrappedNames, OneNameOfATensorInEveryRelease) {
  const char* core = "layers.0.self_attn.q_proj.weight";
  for (const char* prefix :
       {"", "model.", "language_model.model.", "model.language_model.", "model.model.", "transformer."})
    EXPECT_EQ(core_name(std::string(prefix) + core), core) << prefix;
  EXPECT_EQ(core_name("vision_tower.model.layers.0.weight"), "vision_tower.model.layers.0.weight");
  EXPECT_EQ(core_name("model"), "model");
  EXPECT_EQ(core_name(""), "");
}

TEST(WrappedNames, TheHeadBesideATable) {
  EXPECT_EQ(head_beside("model.embed_tokens.weight", "lm_head"), "lm_head.weight");
  EXPECT_EQ(head_beside("language_model.model.embed_tokens.weight", "lm_head"),
            "language_model.lm_head.weight");
  EXPECT_EQ(head_beside("model.language_model.embed_tokens.weight", "lm_head"), "lm_head.weight");
  EXPECT_EQ(head_beside("gpt_neox.embed_in.weight", "embed_out"), "embed_out.weight");
}

TEST(WrappedNames, MasksAndFrequenciesAreBuffers) {
  EXPECT_TRUE(is_buffer("h.0.attn.bias"));
  EXPECT_TRUE(is_buffer("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_buffer("h.0.attn.c_attn.bias"));
}

}  // namespace
}  // namespace nfloat
