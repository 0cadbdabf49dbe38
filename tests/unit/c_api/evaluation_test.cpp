// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "c_api/support.h"
#include "nfloat/checkpoint.h"
#include "nfloat/memory_plan.h"
#include "nfloat/results.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat::testing {
namespace {

const std::string kTiny = source_path("/models/nfloat-tiny");

class CEvaluation : public TemporaryFolder {
 protected:
  void SetUp() override {
    TemporaryFolder::SetUp();
    nfloat_error* error = nullptr;
    ASSERT_EQ(nfloat_model_load(kTiny.c_str(), nullptr, nullptr, model_.place(), &error), NFLOAT_OK)
        << taken(error);
    ASSERT_EQ(nfloat_tokenizer_load(kTiny.c_str(), tokenizer_.place(), &error), NFLOAT_OK) << taken(error);
    const std::string text = read_file(kTiny + "/stories.txt").substr(0, 3000);
    nfloat_buffer* buffer = nullptr;
    ASSERT_EQ(nfloat_tokenizer_encode(tokenizer_, text.data(), text.size(), NFLOAT_ENCODE_NO_SPECIAL_TOKENS,
                                      &buffer, nullptr),
              NFLOAT_OK);
    const auto* ids = static_cast<const int32_t*>(nfloat_buffer_data(buffer));
    tokens_.assign(ids, ids + nfloat_buffer_bytes(buffer) / sizeof(int32_t));
    nfloat_buffer_free(buffer);
    scoring_.struct_size = sizeof scoring_;
    scoring_.protocol = NFLOAT_PROTOCOL_BOS;
    scoring_.context = 128;
  }
  Model model_;
  TokenizerHandle tokenizer_;
  std::vector<int32_t> tokens_;
  nfloat_perplexity_options scoring_ = {};
};

TEST_F(CEvaluation, DivergenceIsThatOfEachToken) {
  Owned<nfloat_codebook, nfloat_codebook_free> codebook;
  ASSERT_EQ(nfloat_make_codebook("nf4", 0, codebook.place(), nullptr), NFLOAT_OK);
  nfloat_model_options load = defaults<nfloat_model_options>();
  load.codebook = codebook;
  Model quantized;
  ASSERT_EQ(nfloat_model_load(kTiny.c_str(), &load, nullptr, quantized.place(), nullptr), NFLOAT_OK);
  std::vector<float> kl(tokens_.size()), loss(tokens_.size());
  const Control control(nfloat_control_create());
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  ASSERT_EQ(nfloat_divergence(model_, quantized, tokens_.data(), tokens_.size(), &scoring_, control,
                              kl.data(), loss.data(), tokens_.size(), &json, &error),
            NFLOAT_OK)
      << taken(error);
  const Json result = Json::parse(taken(json));
  ASSERT_EQ(result["tokens"].get<size_t>(), tokens_.size());
  const double mean = std::accumulate(kl.begin(), kl.end(), 0.0) / static_cast<double>(kl.size());
  EXPECT_NEAR(result["divergence"]["mean_kl"].get<double>(), mean, 1e-6);
  EXPECT_GT(mean, 0);
  EXPECT_NEAR(result["mean_loss"].get<double>(),
              std::accumulate(loss.begin(), loss.end(), 0.0) / static_cast<double>(loss.size()), 1e-5);
  EXPECT_EQ(result["reference"]["model"].text(), kTiny);
  EXPECT_EQ(result["precision"].text(), "bf16");
  EXPECT_EQ(nfloat_divergence(model_, quantized, tokens_.data(), tokens_.size(), &scoring_, nullptr,
                              kl.data(), nullptr, 1, &json, nullptr),
            NFLOAT_INVALID_ARGUMENT);
  nfloat_control_cancel(control);
  EXPECT_EQ(nfloat_divergence(model_, quantized, tokens_.data(), tokens_.size(), &scoring_, control, nullptr,
                              loss.data(), tokens_.size() - 1, &json, nullptr),
            NFLOAT_INVALID_ARGUMENT)
      << "before anything is computed";
  EXPECT_EQ(nfloat_divergence(model_, quantized, tokens_.data(), tokens_.size(), &scoring_, control, nullptr,
                              nullptr, 0, &json, nullptr),
            NFLOAT_INTERRUPTED);
  EXPECT_EQ(json, nullptr);
}

TEST_F(CEvaluation, ComparesFormatsAndMakesTheReport) {
  const char* formats[] = {"nf4:64", "fp4:64"};
  nfloat_compare_options options = defaults<nfloat_compare_options>();
  options.formats = formats;
  options.format_count = 2;
  options.scoring = &scoring_;
  options.generate_tokens = -1;
  const Control control(nfloat_control_create());
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  ASSERT_EQ(
      nfloat_compare_formats(kTiny.c_str(), tokens_.data(), tokens_.size(), &options, control, &json, &error),
      NFLOAT_OK)
      << taken(error);
  const std::string document = taken(json);
  const Json result = Json::parse(document);
  ASSERT_EQ(result["formats"].size(), 2u);
  EXPECT_LT(result["formats"][0]["divergence"]["mean_kl"].get<double>(),
            result["formats"][1]["divergence"]["mean_kl"].get<double>());
  EXPECT_EQ(result["recommendation"]["format"].text(), "nf4:64");
  EXPECT_EQ(result["tokens"].get<size_t>(), tokens_.size());
  EXPECT_EQ(result["context"].get<int64_t>(), 128);
  EXPECT_EQ(result["precision"].text(), "f32");
  uint64_t done = 0, total = 0;
  nfloat_control_progress(control, &done, &total);
  EXPECT_EQ(done, 3u);
  EXPECT_EQ(total, 3u);
  ASSERT_EQ(nfloat_report_page(document.data(), document.size(), &json, &error), NFLOAT_OK) << taken(error);
  const std::string page = taken(json);
  EXPECT_NE(page.find("<html"), std::string::npos);
  EXPECT_NE(page.find("degrees_of_freedom"), std::string::npos);
  EXPECT_EQ(nfloat_report_page("{}", 2, &json, nullptr), NFLOAT_MALFORMED_FILE);
  nfloat_control_cancel(control);
  EXPECT_EQ(nfloat_compare_formats(kTiny.c_str(), tokens_.data(), tokens_.size(), &options, control, &json,
                                   nullptr),
            NFLOAT_INTERRUPTED);
  formats[1] = "nf99";
  EXPECT_NE(nfloat_compare_formats(kTiny.c_str(), tokens_.data(), tokens_.size(), &options, nullptr, &json,
                                   nullptr),
            NFLOAT_OK);
}

TEST_F(CEvaluation, ScoresATest) {
  const std::string data = path("arc.jsonl");
  write_file(data, R"({"query": "The old man", "choices": ["was tired.", "xq zzv kk."], "gold": 0}
{"query": "She opened the", "choices": ["qqq zz", "door."], "gold": 1}
)");
  const Control control(nfloat_control_create());
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  ASSERT_EQ(nfloat_evaluate_task(model_, tokenizer_, "arc-easy", data.c_str(), 0, control, &json, &error),
            NFLOAT_OK)
      << taken(error);
  const Json result = Json::parse(taken(json));
  ASSERT_EQ(result["tasks"].size(), 1u);
  EXPECT_EQ(result["tasks"][0]["task"].text(), "arc-easy");
  EXPECT_EQ(result["tasks"][0]["questions"].get<int>(), 2);
  EXPECT_EQ(result["tasks"][0]["accuracy"].get<double>(), 1.0);
  EXPECT_EQ(nfloat_evaluate_task(model_, tokenizer_, "arc-easy", "nowhere", 0, nullptr, &json, nullptr),
            NFLOAT_NOT_FOUND);
}

TEST_F(CEvaluation, DescribesAModelAndPlansItsMemory) {
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  ASSERT_EQ(nfloat_model_describe(model_, &json, &error), NFLOAT_OK) << taken(error);
  const Json model = Json::parse(taken(json));
  EXPECT_EQ(nfloat_model_describe(nullptr, &json, &error), NFLOAT_INVALID_ARGUMENT);
  EXPECT_EQ(taken(error), "model is null");
  EXPECT_EQ(model["vocabulary"].get<int64_t>(), nfloat_model_vocabulary(model_));
  EXPECT_EQ(model["config"], Json::parse(read_file(kTiny + "/config.json")));
  EXPECT_GT(model["memory"]["resident_bytes"].get<uint64_t>(), 0u);
  ASSERT_EQ(nfloat_plan_memory(kTiny.c_str(), 1 << 30, 0, &json, &error), NFLOAT_OK) << taken(error);
  const ModelSize size = measure_model(kTiny);
  EXPECT_EQ(taken(json), memory_plan_json(size, plan_memory(size, 1 << 30, planned_context(size)), 1 << 30,
                                          planned_context(size)));
  for (const int64_t context : {int64_t{-1}, INT64_MIN, INT64_MAX})
    EXPECT_EQ(nfloat_plan_memory(kTiny.c_str(), 0, context, &json, nullptr), NFLOAT_INVALID_ARGUMENT);
}

TEST_F(CEvaluation, ADeviceIsNamedOrRefused) {
  nfloat_error* error = nullptr;
  nfloat_model_options options = defaults<nfloat_model_options>();
  for (const char* name : {"abacus", "vulkan:99", "cuda:99", "cuda:x"}) {
    options.device = name;
    nfloat_model* none = nullptr;
    EXPECT_NE(nfloat_model_load(kTiny.c_str(), &options, nullptr, &none, &error), NFLOAT_OK) << name;
    EXPECT_EQ(none, nullptr);
    const nfloat_status status = nfloat_error_status(error);
    EXPECT_EQ(status, std::string(name).ends_with(":99") ? NFLOAT_NOT_FOUND : NFLOAT_INVALID_ARGUMENT)
        << name;
    const std::string message = taken(std::exchange(error, nullptr));
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find("cpu ("), std::string::npos) << message;
  }
  // A program from before this field: it says a shorter struct, and what lies behind is not looked at.
  options.device = "abacus";
  options.struct_size = offsetof(nfloat_model_options, device);
  Model older;
  EXPECT_EQ(nfloat_model_load(kTiny.c_str(), &options, nullptr, older.place(), &error), NFLOAT_OK)
      << taken(error);
  const auto loss = [&](const nfloat_model* of) {
    nfloat_perplexity_result result = defaults<nfloat_perplexity_result>();
    scoring_.precision = NFLOAT_PRECISION_F32;
    EXPECT_EQ(nfloat_perplexity(of, tokens_.data(), tokens_.size(), &scoring_, nullptr, &result, nullptr),
              NFLOAT_OK);
    return result.mean_loss;
  };
  options.struct_size = sizeof options;
  options.device = "cpu";
  Model named;
  ASSERT_EQ(nfloat_model_load(kTiny.c_str(), &options, nullptr, named.place(), &error), NFLOAT_OK)
      << taken(error);
  EXPECT_EQ(loss(named), loss(older));
  options.device = "vulkan";
  Model card;
  if (nfloat_model_load(kTiny.c_str(), &options, nullptr, card.place(), &error) == NFLOAT_NOT_FOUND) {
    nfloat_error_free(error);
    GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
  }
  EXPECT_NEAR(loss(card), loss(named), 1e-4 * loss(named));
}

TEST_F(CEvaluation, AnalyzesWeights) {
  const Checkpoint checkpoint(kTiny);
  const TensorView view = checkpoint.view("model.layers.0.mlp.up_proj.weight");
  nfloat_tensor tensor = {
      view.data(), static_cast<nfloat_dtype>(view.dtype) + 1, 2, {view.shape[0], view.shape[1]}};
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  ASSERT_EQ(nfloat_analyze_weights(&tensor, 0, &json, &error), NFLOAT_OK) << taken(error);
  const Json result = Json::parse(taken(json));
  EXPECT_EQ(result["elements"].get<int64_t>(), view.elements());
  EXPECT_NEAR(result["codes"][0]["measured"].get<double>(), 0.0085, 0.002);  // nf4
  EXPECT_EQ(nfloat_analyze_weights(&tensor, 3, &json, nullptr), NFLOAT_INVALID_ARGUMENT);
}

TEST_F(CEvaluation, SavesTensorsThatReadBack) {
  const std::string file = path("saved.safetensors");
  const float values[] = {1, 2, 3, 4, 5, 6};
  const uint8_t bytes[] = {7, 8, 9};
  const nfloat_tensor tensors[] = {{values, NFLOAT_F32, 2, {2, 3}}, {bytes, NFLOAT_U8, 1, {3}}};
  const char* names[] = {"a.weight", "b"};
  nfloat_error* error = nullptr;
  ASSERT_EQ(nfloat_save_tensors(file.c_str(), names, tensors, 2, 0, &error), NFLOAT_OK) << taken(error);
  const Checkpoint back(file);
  EXPECT_EQ(std::memcmp(back.view("a.weight").data(), values, sizeof values), 0);
  EXPECT_EQ(back.view("a.weight").shape, (Shape{2, 3}));
  EXPECT_EQ(std::memcmp(back.view("b").data(), bytes, sizeof bytes), 0);
  EXPECT_EQ(nfloat_save_tensors(file.c_str(), names, tensors, 2, 0, nullptr), NFLOAT_ALREADY_EXISTS);
  EXPECT_EQ(nfloat_save_tensors(file.c_str(), names, tensors, 1, 1, nullptr), NFLOAT_OK);
  EXPECT_EQ(Checkpoint(file).tensors().size(), 1u);
  names[1] = names[0];
  EXPECT_EQ(nfloat_save_tensors(file.c_str(), names, tensors, 2, 1, nullptr), NFLOAT_INVALID_ARGUMENT);
}

TEST(CLibrary, DtypesHaveNamesAndThreadsAreSet) {
  EXPECT_EQ(nfloat_parse_dtype("bfloat16"), NFLOAT_BF16);
  EXPECT_EQ(nfloat_parse_dtype("BF16"), NFLOAT_BF16);
  EXPECT_EQ(nfloat_parse_dtype("float9"), 0);
  EXPECT_EQ(nfloat_parse_dtype(nullptr), 0);
  for (nfloat_dtype dtype = NFLOAT_F64; dtype <= NFLOAT_F8E5M2; ++dtype)
    EXPECT_EQ(nfloat_parse_dtype(nfloat_dtype_name(dtype)), dtype);
  const int32_t first = nfloat_threads();
  nfloat_set_threads(3);
  EXPECT_EQ(nfloat_threads(), 3);
  nfloat_set_threads(0);
  EXPECT_EQ(nfloat_threads(), first);
}

}  // namespace
}  // namespace nfloat::testing
