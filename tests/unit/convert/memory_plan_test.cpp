// SPDX-License-Identifier: Apache-2.0
#include "nfloat/memory_plan.h"

#include <gtest/gtest.h>

#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

class MemoryPlan : public testing::TemporaryFolder {
 protected:
  ModelSize measure(const std::string& config) {
    testing::write_file(path("config.json"), config);
    return measure_model(path("config.json"));
  }
};

// Parameter counts as the models' own cards and files have them.
TEST_F(MemoryPlan, CountsParametersOfKnownModels) {
  const ModelSize llama2 = measure(
      R"({"model_type":"llama","hidden_size":4096,"intermediate_size":11008,"num_hidden_layers":32,"num_attention_heads":32,)"
      R"("num_key_value_heads":32,"vocab_size":32000,"max_position_embeddings":4096,"tie_word_embeddings":false})");
  EXPECT_EQ(llama2.parameters(), 6738415616);
  const ModelSize llama32 = measure(
      R"({"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,"num_attention_heads":32,)"
      R"("num_key_value_heads":8,"head_dim":64,"vocab_size":128256,"max_position_embeddings":131072,"tie_word_embeddings":true})");
  EXPECT_EQ(llama32.parameters(), 1235814400);
  EXPECT_EQ(llama32.head_parameters, 0);
  EXPECT_EQ(llama32.kv_cache_bytes(1000, 2), 2u * 16 * 8 * 64 * 1000 * 2);
  const ModelSize mixtral = measure(
      R"({"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,)"
      R"("num_key_value_heads":8,"vocab_size":32000,"num_local_experts":8,"num_experts_per_tok":2})");
  EXPECT_EQ(mixtral.parameters(), 46702792704);
}

TEST_F(MemoryPlan, TheEmbeddedModelCountsTheSameFromConfigAndFiles) {
  const std::string folder = testing::source_path("/models/nfloat-tiny");
  const ModelSize from_files = measure_model(folder), from_config = measure_model(folder + "/config.json");
  EXPECT_EQ(from_files.parameters(), 5770496);
  EXPECT_EQ(from_config.parameters(), 5770496);
  EXPECT_EQ(from_files.linear_parameters, from_config.linear_parameters);
}

TEST_F(MemoryPlan, SaysWhatFits) {
  const ModelSize model = measure_model(testing::source_path("/models/nfloat-tiny/config.json"));
  const auto rows = plan_memory(model, 15'000'000, 256);
  ASSERT_GE(rows.size(), 5u);
  EXPECT_GT(rows.front().peak_bytes(), 15'000'000u);
  EXPECT_EQ(rows.front().largest_context, 0);
  EXPECT_LT(rows.back().peak_bytes(), 15'000'000u);
  EXPECT_EQ(rows.back().largest_context, 512);
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_LE(rows[i].weight_bytes, rows[i - 1].weight_bytes);
}

TEST_F(MemoryPlan, RefusesWhatItCannotKnow) {
  const auto check = [&](const std::string& config, ErrorCode code, const std::string& said) {
    EXPECT_NFLOAT_ERROR(measure(config), code, said);
  };
  check("[]", ErrorCode::kMalformedFile, "not a JSON object");
  check("{}", ErrorCode::kUnsupported, "no 'num_hidden_layers'");
  check(R"({"num_hidden_layers":-1})", ErrorCode::kMalformedFile, "expected a size");
  check(R"({"num_hidden_layers":1,"hidden_size":8,"num_attention_heads":0,"vocab_size":9})",
        ErrorCode::kMalformedFile, "zero");
  check(R"({"num_hidden_layers":4294967296,"hidden_size":4294967296,"num_attention_heads":1,"vocab_size":9})",
        ErrorCode::kMalformedFile, "10^17");
  check(R"({"num_hidden_layers":1,"hidden_size":8,"num_attention_heads":1,"vocab_size":9,"kv_lora_rank":4})",
        ErrorCode::kUnsupported, "kv_lora_rank");
  EXPECT_NFLOAT_ERROR(measure_model(path("absent")), ErrorCode::kNotFound, "absent");
}

}  // namespace
}  // namespace nfloat
