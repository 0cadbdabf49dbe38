// SPDX-License-Identifier: Apache-2.0
// What other programs quantized is refused by name, and folders are read and written as Transformers does.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/json.h"
#include "nfloat/analyze.h"
#include "nfloat/bridge.h"
#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "support/files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
using testing::RawTensor;
using testing::write_file;
using testing::write_safetensors;

class ForeignTest : public testing::TemporaryFolder {
 protected:
  void SetUp() override {
    TemporaryFolder::SetUp();
    fs::create_directories(folder_ / "in");
  }
  void write(const std::string& config, const std::vector<RawTensor>& tensors,
             const std::string& name = "in/model.safetensors") {
    if (!config.empty()) write_file(folder_ / "in/config.json", config);
    write_safetensors(folder_ / name, tensors);
  }
  static RawTensor tensor(const std::string& name, const std::string& dtype = "F32", size_t element = 4) {
    return {name, dtype, {64, 64}, std::string(64 * 64 * element, '\0')};
  }
  std::string refusal() {
    try {
      quantize_checkpoint(Checkpoint(path("in")), path("out"), {}, {});
    } catch (const Error& error) {
      EXPECT_FALSE(fs::exists(folder_ / "out"));
      return error.what();
    }
    return "";
  }
  Json config_out() {
    return parse_json_object(testing::read_file(folder_ / "out/config.json"), "config.json");
  }
};

constexpr const char* kQuery = "model.layers.0.self_attn.q_proj.weight";

TEST_F(ForeignTest, OtherMethodsAreNamed) {
  const std::pair<const char*, const char*> configs[] = {
      {R"({"quantization_config": {"quant_method": "hqq"}})", "hqq"},
      {R"({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}})", "8 bits"},
      {R"({"quantization_config": "quantization.json"})", "\"quantization.json\", expected an object"},
      {R"({"quantization_config": [{"quant_method": "gptq"}]})", "expected an object"},
      {R"({"quantization_config": false})", "false, expected an object"},
      {R"({"quantization": {"group_size": 64, "bits": 4}})", "MLX"},
      {R"({"text_config": {"quantization_config": {"quant_method": "fbgemm_fp8"}}})", "fbgemm_fp8"},
      {R"({"compression_config": {"quant_method": "compressed-tensors"}})", "compressed-tensors"}};
  for (const auto& [config, method] : configs) {
    write(config, {tensor(kQuery)});
    EXPECT_NE(refusal().find(method), std::string::npos) << config << ": " << refusal();
  }
  write(R"({"quantization_config": null})", {tensor(kQuery)});
  EXPECT_EQ(refusal(), "");
}

TEST_F(ForeignTest, ConversionCountsWhatIsNotFinite) {
  RawTensor raw = tensor(kQuery);
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  std::memcpy(raw.bytes.data() + sizeof nan * 70, &nan, sizeof nan);
  std::memcpy(raw.bytes.data() + sizeof nan * 4000, &infinity, sizeof nan);
  write("{}", {raw, tensor("model.norm.weight")});
  for (const GgufType type : {GgufType::kF32, GgufType::kF16, GgufType::kBF16}) {
    BridgeOptions options;
    options.type = type;
    options.check = true;  // which counts nothing twice
    const BridgeResult result =
        write_folder(Checkpoint(path("in")), path(std::string(gguf_type_info(type).name)), options, {});
    for (const BridgeTensor& one : result.tensors) {
      EXPECT_EQ(one.not_finite, one.name == kQuery ? 2 : 0);
      EXPECT_EQ(one.first_not_finite, one.name == kQuery ? 70 : -1);
    }
  }
}

TEST_F(ForeignTest, AnEmptyConfigurationIsWrittenWithWhatWasDone) {
  write("{}", {tensor(kQuery)});
  quantize_checkpoint(Checkpoint(path("in")), path("out"), {}, {});
  EXPECT_EQ(config_out()["quantization_config"]["quant_method"], "bitsandbytes");
}

TEST_F(ForeignTest, TensorsAndFilesShowTheMethodToo) {
  for (const char* suffix : {"SCB", "weight_scale_inv", "qzeros", "weight_packed"}) {
    write("{}", {tensor(kQuery), tensor(std::string("model.layers.0.mlp.up_proj.") + suffix)});
    EXPECT_NE(refusal().find(suffix), std::string::npos) << refusal();
  }
  write("{}", {tensor(kQuery)});
  write_file(folder_ / "in/hf_quant_config.json", R"({"quantization": {"quant_algo": "NVFP4"}})");
  EXPECT_NE(refusal().find("ModelOpt"), std::string::npos) << refusal();
  const std::vector<Finding> found = check_checkpoint(Checkpoint(path("in")), {});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_FALSE(found[0].error);
  EXPECT_NE(found[0].text.find("not checked"), std::string::npos) << found[0].text;
}

TEST_F(ForeignTest, WholeNumbersInPlaceOfWeightsAreCodesOfSomeMethod) {
  const std::string module = "model.layers.0.self_attn.q_proj.";
  for (const auto& [name, dtype, element] : {std::tuple{"weight", "I8", 1},
                                             {"weight._data", "I8", 1},
                                             {"codes", "U8", 1},
                                             {"trellis", "I16", 2},
                                             {"Qidxs", "I32", 4},
                                             {"w1.packed", "U32", 4}}) {
    write("{}", {tensor("model.layers.0.mlp.up_proj.weight"),
                 tensor(module + name, dtype, static_cast<size_t>(element))});
    EXPECT_NE(refusal().find(name), std::string::npos) << name << ": " << refusal();
  }
  // Masks and places are buffers.
  write("{}", {tensor(kQuery), tensor("h.0.attn.bias", "U8", 1), tensor("position_ids", "I64", 8),
               tensor("h.0.attn.causal_mask", "U8", 1), tensor("relative_position_index", "I32", 4)});
  EXPECT_EQ(refusal(), "");
}

TEST_F(ForeignTest, WhatSixteenBitsDoNotHoldIsNamed) {
  RawTensor large = tensor(kQuery);
  for (size_t at = 0; at < large.bytes.size(); at += 4) {
    const float value = at == 64 ? 3.4e38f : 0.5f;
    std::memcpy(large.bytes.data() + at, &value, 4);
  }
  write(R"({"model_type": "x"})", {large});
  quantize_checkpoint(Checkpoint(path("in")), path("packed"), {}, {});
  for (const auto& [dtype, other] : {std::pair{DType::kF16, "bf16 or f32"}, {DType::kBF16, "take f32"}}) {
    try {
      dequantize_checkpoint(Checkpoint(path("packed")), path("plain"), dtype);
      ADD_FAILURE() << dtype_name(dtype);
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(kQuery), std::string::npos) << text;
      EXPECT_NE(text.find(other), std::string::npos) << text;
    }
  }
}

// A weight of 64 x 64 in E4M3, ones and halves, in blocks of 48 rows and 40 columns with the scales 2, 4, 8,
// 16, and what it is.
std::vector<RawTensor> float8_weight(std::vector<float>* values) {
  std::string codes;
  for (int row = 0; row < 64; ++row)
    for (int col = 0; col < 64; ++col) {
      const bool half = (row + col) % 3 == 0;
      codes += half ? '\x30' : '\x38';
      const float scale = row < 48 ? (col < 40 ? 2.0f : 4.0f) : (col < 40 ? 8.0f : 16.0f);
      values->push_back(half ? scale / 2 : scale);
    }
  return {{kQuery, "F8_E4M3", {64, 64}, codes},
          {std::string(kQuery) + "_scale_inv", "F32", {2, 2}, testing::raw_bytes<float>({2, 4, 8, 16})},
          {"model.layers.0.self_attn.q_proj.input_scale", "F32", {}, testing::raw_bytes<float>({3})}};
}
constexpr const char* kFloat8Config =
    R"({"torch_dtype": "bfloat16", "text_config": {"quantization_config": {"quant_method": "fp8",
        "weight_block_size": [48, 40]}}})";

TEST_F(ForeignTest, Float8BecomesPlain) {
  std::vector<float> expected;
  write(kFloat8Config, float8_weight(&expected));
  write_file(folder_ / "in/hf_quant_config.json", R"({"quantization": {"quant_algo": "FP8"}})");
  const Checkpoint input(path("in"), {.decoded = DType::kF32});
  const auto expect_plain = [&](const std::string& folder, DType dtype) {
    const Checkpoint output(path(folder));
    ASSERT_EQ(output.tensors().size(), 1u);
    EXPECT_EQ(output.find(kQuery)->dtype, dtype);
    std::vector<float> values(64 * 64);
    convert_elements(output.view(kQuery), DType::kF32, std::as_writable_bytes(std::span(values)));
    EXPECT_EQ(values, expected);
    const Json config =
        parse_json_object(testing::read_file(folder_ / folder / "config.json"), "config.json");
    EXPECT_FALSE(config["text_config"].contains("quantization_config"));
    EXPECT_FALSE(fs::exists(folder_ / folder / "hf_quant_config.json"));
  };
  write_folder(input, path("same"), {});
  expect_plain("same", DType::kBF16);
  write_folder(input, path("f32"), {.type = GgufType::kF32, .check = true});
  expect_plain("f32", DType::kF32);
  dequantize_checkpoint(input, path("f16"), DType::kF16);
  expect_plain("f16", DType::kF16);
}

TEST_F(ForeignTest, QuantizingFloat8IsQuantizingItsValues) {
  std::vector<float> values;
  write(kFloat8Config, float8_weight(&values));
  quantize_checkpoint(Checkpoint(path("in")), path("from_codes"), {});
  std::string bf16;
  for (const float value : values) {
    const std::string four = testing::raw_bytes<float>({value});
    bf16 += four.substr(2);
  }
  fs::remove_all(folder_ / "in");
  fs::create_directories(folder_ / "in");
  write(R"({"torch_dtype": "bfloat16", "text_config": {}})", {{kQuery, "BF16", {64, 64}, bf16}});
  quantize_checkpoint(Checkpoint(path("in")), path("from_values"), {});
  for (const char* file : {"model.safetensors", "config.json"})
    EXPECT_EQ(testing::read_file(folder_ / "from_codes" / file),
              testing::read_file(folder_ / "from_values" / file));
}

TEST_F(ForeignTest, EveryWayOutRefusesWhatIsNotRead) {
  const Checkpoint input = [&] {
    write(R"({"model_type": "llama", "quantization_config": {"quant_method": "awq"}})",
          {{"model.layers.0.self_attn.q_proj.qweight", "I32", {1}, "abcd"}});
    return Checkpoint(path("in"));
  }();
  const auto expect_named = [&](const auto& action) {
    const auto [code, text] = testing::error_of(action);
    EXPECT_EQ(code, ErrorCode::kUnsupported) << text;
    EXPECT_NE(text.find("awq ('model.layers.0.self_attn.q_proj.qweight')"), std::string::npos) << text;
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  expect_named([&] { quantize_checkpoint(input, path("out"), {}); });
  expect_named([&] { dequantize_checkpoint(input, path("out"), DType::kBF16); });
  expect_named([&] { write_folder(input, path("out"), {}); });
  BridgeOptions merged;
  merged.lora = path("adapter");
  expect_named([&] { write_folder(input, path("out"), merged); });
  EXPECT_EQ(input.tensors().size(), 1u);  // which inspect lists
}

// A part of MXFP4 has no place beside plain or 4-bit weights.
TEST_F(ForeignTest, KeptExpertsGoIntoGgufFilesOnly) {
  const std::string name = "model.layers.0.mlp.experts.down_proj";
  write(R"({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}})",
        {{name + "_blocks", "U8", {1, 2, 1, 16}, std::string(32, '\x22')},
         {name + "_scales", "U8", {1, 2, 1}, "\x80\x81"}});
  const Checkpoint kept(path("in"), {.keep_mxfp4 = true});
  EXPECT_NFLOAT_ERROR(write_folder(kept, path("out"), {}), ErrorCode::kUnsupported, name + "_blocks");
  write_folder(Checkpoint(path("in")), path("out"), {});
  const Checkpoint output(path("out"));
  ASSERT_EQ(output.find(name)->shape, Shape({1, 32, 2}));
  const TensorView view = output.view(name);
  for (size_t i = 0; i < 32; ++i) {  // 1 times 2 and 4, as BF16
    EXPECT_EQ(std::memcmp(view.bytes.data() + 4 * i, "\x00\x40\x80\x40", 4), 0) << i;
  }
  EXPECT_TRUE(config_out().find("quantization_config") == nullptr);
}

TEST_F(ForeignTest, AdaptersAreNoModels) {
  write("{}", {tensor("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")});
  EXPECT_NE(refusal().find("LoRA"), std::string::npos) << refusal();
}

TEST_F(ForeignTest, NumbersOfPythonGoThrough) {
  write(R"({"a": [NaN, -Infinity, Infinity], "text": "NaN and \"Infinity\"", "b": -1.5})", {tensor(kQuery)});
  quantize_checkpoint(Checkpoint(path("in")), path("out"), {}, {});
  const Json config = config_out();
  EXPECT_TRUE(std::isnan(config["a"][0].get<double>()));
  EXPECT_EQ(config["a"][1].get<double>(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(config["a"][2].get<double>(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(config["text"].get<std::string>(), "NaN and \"Infinity\"");
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_THROW(Json::parse("[NaN]"), JsonError);
  EXPECT_THROW(parse_json("[Infinit]", "x"), Error);
  EXPECT_EQ(parse_json(R"(["~number NaN", NaN])", "x")[0].get<std::string>(), "~number NaN");
}

TEST_F(ForeignTest, AnEmptyConfigurationIsNotNone) {
  for (const char* text : {"", " \n"}) {
    write("{}", {tensor(kQuery)});
    write_file(folder_ / "in/config.json", text);
    EXPECT_NFLOAT_ERROR(quantize_checkpoint(Checkpoint(path("in")), path("out"), {}),
                        ErrorCode::kMalformedFile, "config.json: not valid JSON: it is empty");
    EXPECT_NFLOAT_ERROR(write_gguf(Checkpoint(path("in")), path("out.gguf"), {}), ErrorCode::kMalformedFile,
                        "config.json: not valid JSON: it is empty");
  }
}

TEST_F(ForeignTest, AWholeFileComesBeforeAnIndex) {
  write("{}", {tensor(kQuery)});
  write_file(folder_ / "in/model.safetensors.index.json",
             R"({"weight_map": {"gone": "model-00001-of-00002.safetensors"}})");
  EXPECT_NE(Checkpoint(path("in")).find(kQuery), nullptr);
}

TEST_F(ForeignTest, SubFoldersGoAlongAndCanBeReplaced) {
  write(R"({"vision_config": {"quantization_config": null}})", {tensor(kQuery)});
  fs::create_directories(folder_ / "in/2_Normalize/deeper");
  write_file(folder_ / "in/2_Normalize/config.json", "{}");
  write_file(folder_ / "in/2_Normalize/deeper/a.txt", "x");
  fs::create_directories(folder_ / "in/.cache");
  write_file(folder_ / "in/.cache/lock", "x");
  write_file(folder_ / "in/adapter_config.json", "{}");
  ConvertControl control;
  for (int i = 0; i < 2; ++i) {
    quantize_checkpoint(Checkpoint(path("in")), path("out"), {}, control);
    control.overwrite = true;
  }
  EXPECT_TRUE(fs::exists(folder_ / "out/2_Normalize/config.json"));
  EXPECT_TRUE(fs::exists(folder_ / "out/2_Normalize/deeper/a.txt"));
  EXPECT_FALSE(fs::exists(folder_ / "out/.cache"));
  EXPECT_FALSE(fs::exists(folder_ / "out/adapter_config.json"));
  // Weights of somebody else below: never replaced.
  write_file(folder_ / "out/2_Normalize/other.safetensors", "x");
  EXPECT_THROW(quantize_checkpoint(Checkpoint(path("in")), path("out"), {}, control), Error);
}

TEST_F(ForeignTest, NothingPackedIsNotDescribedAsPacked) {
  write(R"({"model_type": "x"})", {{"model.norm.weight", "F32", {64}, std::string(256, '\0')}});
  quantize_checkpoint(Checkpoint(path("in")), path("out"), {}, {});
  EXPECT_EQ(config_out().find("quantization_config"), nullptr);
  QuantizeCheckpointOptions options;
  options.only = {"nothing"};
  write("{}", {tensor(kQuery)});
  EXPECT_THROW(plan_quantization(Checkpoint(path("in")), options), Error);
}

TEST_F(ForeignTest, TypesThatAreOnlyListed) {
  const std::tuple<const char*, std::vector<int64_t>, size_t> types[] = {{"F4", {3, 4}, 6},
                                                                         {"F6_E2M3", {4}, 3},
                                                                         {"C64", {2}, 16},
                                                                         {"F8_E8M0", {5}, 5},
                                                                         {"F8_E5M2FNUZ", {2, 2}, 4}};
  for (const auto& [type, shape, bytes] : types) {
    write("", {{"x", type, shape, std::string(bytes, 'x')}}, "a.safetensors");
    EXPECT_EQ(Checkpoint(path("a.safetensors")).stored_type("x"), type);
  }
  write("", {{"x", "F4", {3}, "xx"}}, "a.safetensors");
  EXPECT_THROW(Checkpoint(path("a.safetensors")), Error);
}

TEST_F(ForeignTest, TextsInPlaceOfWeightsAreNamed) {
  const std::pair<const char*, const char*> texts[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"},
      {"<!doctype html><html><body>401</body></html>", "web page"},
      {"<html>\n<head></head></html>", "web page"},
      {"# Model card\n\nA text.", "begins with '# Model card"},
      {"%PDF-1.4\n", "begins with '%PDF-1.4"}};
  for (const auto& [text, name] : texts) {
    write_file(folder_ / "a.safetensors", text);
    try {
      Checkpoint{path("a.safetensors")};
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

TEST(AnalyzeWeights, TheLargestFloatsHaveAFit) {
  Tensor weights(DType::kF32, {32, 64});
  for (int i = 0; i < 32 * 64; ++i)
    weights.data<float>()[i] = (i % 3 == 0 ? 1 : -1) * std::numeric_limits<float>::max();
  const WeightStatistics result = analyze_weights(weights.view(), {});
  EXPECT_TRUE(std::isfinite(result.deviation));
  EXPECT_TRUE(std::isfinite(result.plain.student.scale));
}

}  // namespace
}  // namespace nfloat
