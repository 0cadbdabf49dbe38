// SPDX-License-Identifier: Apache-2.0
#include "nfloat/convert.h"
#include "base/json.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "convert/weights.h"
#include "support/files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
using testing::raw_bytes;
using testing::RawTensor;
using testing::read_file;
using testing::write_file;
using testing::write_safetensors;

std::vector<float> gaussian(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

class Convert : public testing::TemporaryFolder {
 protected:
  // A model folder with one tensor of each kind.
  std::string make_model(
      const std::string& config = R"({"model_type": "llama", "torch_dtype": "float32", "zebra": 1})") {
    const std::string folder = path("model");
    fs::create_directories(folder);
    write_safetensors(
        folder + "/model.safetensors",
        {{"model.embed_tokens.weight", "F32", {10, 64}, raw_bytes(gaussian(640, 1))},
         {"model.layers.0.mlp.up_proj.weight", "F32", {33, 70}, raw_bytes(gaussian(33 * 70, 2))},
         {"model.layers.0.mlp.up_proj.bias", "F32", {33}, raw_bytes(gaussian(33, 3))},
         {"model.layers.0.mlp.gate.weight", "F32", {4, 64}, raw_bytes(gaussian(256, 4))},
         {"model.layers.0.mlp.experts.down_proj", "F32", {2, 8, 16}, raw_bytes(gaussian(256, 5))},
         {"model.layers.1.mlp.up_proj.weight", "F32", {64, 64}, raw_bytes(gaussian(4096, 6))},
         {"model.layers.1.step", "I64", {1}, std::string(8, '\1')},
         {"lm_head.weight", "F32", {10, 64}, raw_bytes(gaussian(640, 7))}});
    write_file(folder + "/config.json", config);
    write_file(folder + "/tokenizer.json", R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})");
    write_file(folder + "/pytorch_model.bin", "not copied");
    fs::create_directories(folder + "/original");
    return folder;
  }

  static std::map<std::string, std::string> reasons(const QuantizationPlan& plan) {
    std::map<std::string, std::string> result;
    for (const TensorPlan& tensor : plan.tensors) result[tensor.input.name] = tensor.reason;
    return result;
  }
};

TEST_F(Convert, PlansWhatLoadersExpect) {
  const Checkpoint input(make_model());
  auto plan = plan_quantization(input, {});
  auto reason = reasons(plan);
  EXPECT_EQ(reason["model.layers.0.mlp.up_proj.weight"], "");
  EXPECT_EQ(reason["model.layers.1.mlp.up_proj.weight"], "");
  EXPECT_EQ(reason["model.embed_tokens.weight"], "embedding");
  EXPECT_EQ(reason["lm_head.weight"], "output head");
  EXPECT_EQ(reason["model.layers.0.mlp.gate.weight"], "router");
  EXPECT_EQ(reason["model.layers.0.mlp.up_proj.bias"], "norm or bias (1-D)");
  EXPECT_EQ(reason["model.layers.1.step"], "I64 is not quantized");
  EXPECT_NE(reason["model.layers.0.mlp.experts.down_proj"].find("quantize_experts"), std::string::npos);
  EXPECT_EQ(plan.quantized_parameters, 33 * 70 + 4096);
  EXPECT_EQ(plan.copied_files, std::vector<std::string>{"tokenizer.json"});

  QuantizeCheckpointOptions options;
  options.quantize_experts = true;
  options.skip = {"layers\\.1\\."};
  reason = reasons(plan_quantization(input, options));
  EXPECT_EQ(reason["model.layers.0.mlp.experts.down_proj"], "");
  EXPECT_EQ(reason["model.layers.1.mlp.up_proj.weight"], "matches skip");
  options = {};
  options.only = {"layers\\.1\\."};
  EXPECT_EQ(reasons(plan_quantization(input, options))["model.layers.0.mlp.up_proj.weight"],
            "matches no only");
  options.only = {"("};
  EXPECT_NFLOAT_ERROR(plan_quantization(input, options), ErrorCode::kInvalidArgument,
                      "not a regular expression");
  options = {};
  options.format = "nf3";
  EXPECT_NFLOAT_ERROR(plan_quantization(input, options), ErrorCode::kInvalidArgument, "nf4 and fp4");
  options = {};
  options.quantize.block_size = 8;
  EXPECT_NFLOAT_ERROR(plan_quantization(input, options), ErrorCode::kInvalidArgument, "block size 8");
  options = {};
  options.storage = DType::kI8;
  EXPECT_NFLOAT_ERROR(plan_quantization(input, options), ErrorCode::kInvalidArgument, "storage int8");
}

TEST_F(Convert, WritesAFolderThatLoadersUnderstand) {
  const Checkpoint input(make_model());
  QuantizeCheckpointOptions options;
  options.quantize.double_quantization = true;
  const ConvertResult result = quantize_checkpoint(input, path("out/"), options);
  const auto config = Json::parse(read_file(folder_ / "out" / "config.json"));
  EXPECT_EQ(config["zebra"], 1);
  EXPECT_EQ(
      config["quantization_config"].dump(),
      R"({"_load_in_4bit":true,"_load_in_8bit":false,"bnb_4bit_compute_dtype":"float32","bnb_4bit_quant_storage":"uint8",)"
      R"("bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true,"llm_int8_enable_fp32_cpu_offload":false,)"
      R"("llm_int8_has_fp16_weight":false,"llm_int8_skip_modules":["model.layers.0.mlp.gate","lm_head"],)"
      R"("llm_int8_threshold":6.0,"load_in_4bit":true,"load_in_8bit":false,"quant_method":"bitsandbytes"})");
  EXPECT_TRUE(fs::exists(folder_ / "out" / "tokenizer.json"));
  EXPECT_FALSE(fs::exists(folder_ / "out" / "pytorch_model.bin"));
  EXPECT_FALSE(fs::exists(folder_ / "out" / "model.safetensors.index.json"));
  const Checkpoint output(path("out"));
  EXPECT_EQ(output.weight_names().size(), input.tensors().size());
  for (const TensorPlan& tensor : result.plan.tensors) {
    EXPECT_EQ(output.is_quantized(tensor.input.name), tensor.quantize);
    if (tensor.quantize) continue;
    const auto before = input.view(tensor.input.name).bytes, after = output.view(tensor.input.name).bytes;
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end())) << tensor.input.name;
  }
  // The folder holds some tensors of a model; what names none is that it does not load.
  for (const Finding& finding : check_checkpoint(output))
    EXPECT_FALSE(finding.error && !finding.tensor.empty()) << finding.tensor << finding.text;

  dequantize_checkpoint(output, path("back"), DType::kF16);
  const auto plain = Json::parse(read_file(folder_ / "back" / "config.json"));
  EXPECT_FALSE(plain.contains("quantization_config"));
  EXPECT_EQ(plain["torch_dtype"], "float16");
  const Checkpoint back(path("back"));
  EXPECT_EQ(back.find("model.layers.0.mlp.up_proj.weight")->shape, Shape({33, 70}));
  EXPECT_EQ(back.find("model.layers.0.mlp.up_proj.weight")->dtype, DType::kF16);
  EXPECT_EQ(back.find("lm_head.weight")->dtype, DType::kF32);
  EXPECT_NFLOAT_ERROR(quantize_checkpoint(output, path("again"), options), ErrorCode::kUnsupported,
                      "already quantized");
  EXPECT_NFLOAT_ERROR(dequantize_checkpoint(back, path("again"), DType::kF16), ErrorCode::kUnsupported,
                      "nothing to dequantize");
}

TEST_F(Convert, TheSkipListAndTheTensorsAgreeBothWays) {
  const Checkpoint input(make_model());
  QuantizeCheckpointOptions options;
  options.skip = {"layers\\.0\\.mlp\\.up"};
  const auto plan = quantize_checkpoint(input, path("out"), options).plan;
  EXPECT_EQ(plan.skip_modules,
            (std::vector<std::string>{"model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate", "lm_head"}));
  auto config = Json::parse(read_file(folder_ / "out" / "config.json"));
  const auto errors = [&](Json list) {
    config["quantization_config"]["llm_int8_skip_modules"] = std::move(list);
    write_file(path("out") + "/config.json", config.dump());
    std::vector<std::string> names;
    for (const Finding& finding : check_checkpoint(Checkpoint(path("out"))))
      if (finding.error && !finding.tensor.empty()) names.push_back(finding.tensor);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(errors(Json(plan.skip_modules)), Names{});
  EXPECT_EQ(errors(nullptr), Names{"model.layers.0.mlp.up_proj.weight"});
  EXPECT_EQ(errors(Json::array({"up_proj", "lm_head"})), Names{"model.layers.1.mlp.up_proj.weight"});
  EXPECT_EQ(errors(Json::array({"up_proj"})).size(), 2u);
}

TEST_F(Convert, APackedModuleThatLoadersKeepPlainIsAnError) {
  fs::create_directories(path("model"));
  write_safetensors(path("model") + "/model.safetensors",
                    {{"encoder.block.0.ff.wi.weight", "F32", {64, 64}, raw_bytes(gaussian(4096, 1))},
                     {"encoder.block.0.ff.wo.weight", "F32", {64, 64}, raw_bytes(gaussian(4096, 2))},
                     {"to_words.weight", "F32", {40, 64}, raw_bytes(gaussian(2560, 3))}});
  write_file(path("model") + "/config.json", R"({"model_type": "llama"})");
  quantize_checkpoint(Checkpoint(path("model")), path("out"), {});
  auto config = Json::parse(read_file(folder_ / "out" / "config.json"));
  const auto errors = [&](const char* type, int words, Json list) {
    config["model_type"] = type;
    config["vocab_size"] = words;
    config["quantization_config"]["llm_int8_skip_modules"] = std::move(list);
    write_file(path("out") + "/config.json", config.dump());
    std::vector<std::string> names;
    for (const Finding& finding : check_checkpoint(Checkpoint(path("out"))))
      if (finding.error && !finding.tensor.empty()) names.push_back(finding.tensor);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(errors("llama", 30, nullptr), Names{});
  EXPECT_EQ(errors("llama", 40, nullptr), Names{"to_words.weight"}) << "the last module, by its size a head";
  EXPECT_EQ(errors("llama", 40, Json::array({"other"})), Names{});
  for (Json list : {Json(), Json::array({"other"})})
    EXPECT_EQ(errors("t5", 30, list), Names{"encoder.block.0.ff.wo.weight"}) << "float32 whatever is listed";
}

TEST_F(Convert, ShardsAndIndexAgree) {
  const Checkpoint input(make_model());
  QuantizeCheckpointOptions options;
  options.shard_bytes = 3000;
  const ConvertResult result = quantize_checkpoint(input, path("out"), options);
  EXPECT_GT(result.files.size(), 2u);
  const Checkpoint output(path("out"));  // checks the index against the shards
  EXPECT_EQ(output.files().size(), result.files.size());
  const auto index = Json::parse(read_file(folder_ / "out" / "model.safetensors.index.json"));
  uint64_t total = 0;
  for (const TensorInfo& tensor : output.tensors()) total += tensor.bytes;
  EXPECT_EQ(index["metadata"]["total_size"], total);
  const Checkpoint whole_input(path("model"));
  for (const TensorError& error : compare_checkpoints(output, input))
    EXPECT_GT(error.sqnr_db(), 19.0) << error.name;
}

TEST_F(Convert, SameBytesForEveryNumberOfThreadsAndMethod) {
  const std::string file = path("big.safetensors");
  // More than one chunk, a partial last block, an odd number of elements.
  write_safetensors(file, {{"w", "F32", {641, 963}, raw_bytes(gaussian(641 * 963, 9))}});
  const Checkpoint input(file);
  for (ScaleMethod scale : {ScaleMethod::kAbsmax, ScaleMethod::kSearch, ScaleMethod::kSigned}) {
    for (bool nested : {false, true}) {
      for (int64_t block_size : {64, 77}) {
        QuantizeCheckpointOptions options;
        options.quantize = {.block_size = block_size, .scale = scale, .double_quantization = nested};
        std::string first;
        for (int threads : {1, 2, 4}) {
          ConvertControl control;
          control.threads = threads;
          control.overwrite = true;
          quantize_checkpoint(input, path("out.safetensors"), options, control);
          const std::string bytes = read_file(path("out.safetensors"));
          if (first.empty()) first = bytes;
          EXPECT_TRUE(bytes == first) << threads << " threads";
        }
        // The stream makes what the library makes of the whole tensor.
        const QuantizedTensor whole =
            quantize_blockwise(input.view("w"), make_codebook("nf4"), options.quantize);
        const Checkpoint output(path("out.safetensors"));
        const auto codes = output.quantized("w").codes.bytes;
        EXPECT_EQ(std::memcmp(codes.data(), whole.codes.data(), whole.codes.size()), 0);
      }
    }
  }
}

TEST_F(Convert, Gpt2ProjectionsAreTransposed) {
  const std::string folder = path("gpt2");
  fs::create_directories(folder);
  const std::vector<float> values = gaussian(48 * 144, 11);
  write_safetensors(folder + "/model.safetensors",
                    {{"h.0.attn.c_attn.weight", "F32", {48, 144}, raw_bytes(values)},
                     {"wte.weight", "F32", {4, 48}, raw_bytes(gaussian(192, 12))}});
  write_file(folder + "/config.json", R"({"model_type": "gpt2"})");
  const Checkpoint input(folder);
  quantize_checkpoint(input, path("out"), {});
  const Checkpoint output(path("out"));
  EXPECT_EQ(output.quantized("h.0.attn.c_attn.weight").shape, Shape({144, 48}));
  std::vector<float> turned(values.size());
  for (size_t r = 0; r < 48; ++r) {
    for (size_t c = 0; c < 144; ++c) turned[c * 48 + r] = values[r * 144 + c];
  }
  const QuantizedTensor expected = quantize_blockwise(
      {DType::kF32, Shape({144, 48}), std::as_bytes(std::span(turned))}, make_codebook("nf4"));
  const auto codes = output.quantized("h.0.attn.c_attn.weight").codes.bytes;
  EXPECT_EQ(std::memcmp(codes.data(), expected.codes.data(), expected.codes.size()), 0);
  EXPECT_GT(compare_checkpoints(output, input).front().sqnr_db(), 19.0);
  dequantize_checkpoint(output, path("back"), DType::kF32);
  const Checkpoint back(path("back"));
  EXPECT_EQ(back.find("h.0.attn.c_attn.weight")->shape, Shape({48, 144}));
  EXPECT_GT(compare_checkpoints(back, input).front().sqnr_db(), 19.0);
}

TEST_F(Convert, NotFiniteIsNamedWithItsPlace) {
  std::vector<float> values = gaussian(32 * 64, 13);
  values[5 * 64 + 3] = std::numeric_limits<float>::quiet_NaN();
  write_safetensors(path("in.safetensors"), {{"w", "F32", {32, 64}, raw_bytes(values)}});
  const Checkpoint input(path("in.safetensors"));
  QuantizeCheckpointOptions options;
  for (ScaleMethod scale : {ScaleMethod::kAbsmax, ScaleMethod::kSigned}) {
    options.quantize.scale = scale;
    options.quantize.allow_nonfinite = false;
    EXPECT_NFLOAT_ERROR(quantize_checkpoint(input, path("out.safetensors"), options), ErrorCode::kNotFinite,
                        "'w' has a NaN or infinity at [5, 3]");
    EXPECT_FALSE(fs::exists(path("out.safetensors")));
    options.quantize.allow_nonfinite = true;
    ConvertControl control;
    control.overwrite = true;
    EXPECT_NO_THROW(quantize_checkpoint(input, path("out.safetensors"), options, control));
    fs::remove(path("out.safetensors"));
  }
}

TEST_F(Convert, InfinitiesOfTheFileHideNoOverflow) {
  constexpr size_t kBlock = 64;
  std::vector<float> values = gaussian(32 * 64, 14);
  values[3] = std::numeric_limits<float>::infinity();
  QuantizeCheckpointOptions options;
  options.quantize.allow_nonfinite = true;
  const auto dequantize = [&](DType dtype, const std::string& to) {
    write_safetensors(path("in.safetensors"), {{"w", "F32", {32, 64}, raw_bytes(values)}});
    ConvertControl control;
    control.overwrite = true;
    quantize_checkpoint(Checkpoint(path("in.safetensors")), path("four.safetensors"), options, control);
    dequantize_checkpoint(Checkpoint(path("four.safetensors")), path(to), dtype, uint64_t{1} << 30, control);
  };
  dequantize(DType::kF32, "f32.safetensors");
  dequantize(DType::kBF16, "bf16.safetensors");
  const Checkpoint exact(path("f32.safetensors")), halves(path("bf16.safetensors"));
  const auto* wide = reinterpret_cast<const float*>(exact.view("w").bytes.data());
  const auto* narrow = reinterpret_cast<const uint16_t*>(halves.view("w").bytes.data());
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = std::bit_cast<float>(uint32_t{narrow[i]} << 16);
    if (std::isfinite(wide[i]))
      EXPECT_NEAR(value, wide[i], std::abs(wide[i]) / 256) << i;
    else
      EXPECT_FALSE(std::isfinite(value)) << i;
  }
  values[5 * kBlock] = std::numeric_limits<float>::max();
  EXPECT_NFLOAT_ERROR(dequantize(DType::kBF16, "bf16.safetensors"), ErrorCode::kNotFinite,
                      "at element 320 of 'w' has no place in BF16");
}

TEST_F(Convert, OutputsLoseNothing) {
  const Checkpoint input(make_model());
  const auto quantize = [&](const std::string& to, bool overwrite = false) {
    ConvertControl control;
    control.overwrite = overwrite;
    quantize_checkpoint(input, to, {}, control);
  };
  EXPECT_NFLOAT_ERROR(quantize(path("model")), ErrorCode::kInvalidArgument, "is the same as");
  EXPECT_NFLOAT_ERROR(quantize(path("model/out")), ErrorCode::kInvalidArgument, "lies in");
  EXPECT_NFLOAT_ERROR(quantize(folder_.string(), true), ErrorCode::kInvalidArgument, "lies around");
  EXPECT_NFLOAT_ERROR(quantize(path("absent/out")), ErrorCode::kNotFound, "does not exist");
  EXPECT_NFLOAT_ERROR(quantize(""), ErrorCode::kInvalidArgument, "no name");
  write_file(path("file"), "precious");
  EXPECT_NFLOAT_ERROR(quantize(path("file"), true), ErrorCode::kInvalidArgument, "is a file");
  fs::create_directories(path("home/documents"));
  EXPECT_NFLOAT_ERROR(quantize(path("home")), ErrorCode::kAlreadyExists, "exists already");
  EXPECT_NFLOAT_ERROR(quantize(path("home"), true), ErrorCode::kAlreadyExists, "not a checkpoint folder");
  EXPECT_TRUE(fs::exists(path("home/documents")));
  quantize(path("out"));
  EXPECT_NFLOAT_ERROR(quantize(path("out")), ErrorCode::kAlreadyExists, "exists already");
  write_file(path("out/old-file"), "x");
  quantize(path("out"), true);
  EXPECT_FALSE(fs::exists(path("out/old-file")));

  // A run that is stopped leaves the old output and nothing else.
  const size_t entries = static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  write_file(path("out/old-file"), "x");
  ConvertControl control;
  control.overwrite = true;
  control.cancelled = [] { return true; };
  EXPECT_NFLOAT_ERROR(quantize_checkpoint(input, path("out"), {}, control), ErrorCode::kInterrupted,
                      "interrupted");
  EXPECT_TRUE(fs::exists(path("out/old-file")));
  EXPECT_EQ(static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {})), entries);
}

TEST_F(Convert, ValuesOfLessThanAByteAreCopiedAndNotRead) {
  const std::pair<const char*, size_t> types[] = {{"F4", 32}, {"F6_E2M3", 48}, {"F6_E3M2", 48}};
  for (const auto& [type, bytes] : types) {
    const std::string folder = make_model(), extra = path("model/model.safetensors");
    const std::string values(bytes, '\x5a');
    write_safetensors(extra,
                      {{"extra", type, {8, 8}, values},
                       {"model.layers.0.mlp.up_proj.weight", "F32", {64, 64}, raw_bytes(gaussian(4096, 6))},
                       {"step", "U8", {3}, "abc"}});
    ConvertControl control;
    control.overwrite = true;
    const Checkpoint input(folder);
    quantize_checkpoint(input, path("out"), {}, control);
    dequantize_checkpoint(Checkpoint(path("out")), path("plain"), DType::kF32, 1 << 12, control);
    for (const char* out : {"out", "plain"}) {
      const Checkpoint output(path(out));
      const auto view = output.view("extra");
      EXPECT_EQ(dtype_name(view.dtype), type);
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size()), values);
      EXPECT_EQ(output.view("step").bytes[2], std::byte{'c'});
    }
    EXPECT_NFLOAT_ERROR((void)WeightReader(input, "extra"), ErrorCode::kUnsupported,
                        extra + ": tensor 'extra' is " + type);
    const TensorView whole{input.find("extra")->dtype, Shape({8, 8}), std::span<const std::byte>()};
    EXPECT_NFLOAT_ERROR(save_tensors(path("saved"), {{{"extra", whole}}}), ErrorCode::kInvalidArgument,
                        "'extra'");
  }
}

TEST_F(Convert, StorageDtypesHoldTheSameBytes) {
  write_safetensors(path("in.safetensors"), {{"w", "BF16", {16, 64}, std::string(2048, '\x3c')}});
  const Checkpoint input(path("in.safetensors"));
  std::string first;
  for (DType storage : {DType::kU8, DType::kBF16, DType::kF16, DType::kF32}) {
    QuantizeCheckpointOptions options;
    options.storage = storage;
    ConvertControl control;
    control.overwrite = true;
    quantize_checkpoint(input, path("out.safetensors"), options, control);
    const Checkpoint output(path("out.safetensors"));
    EXPECT_EQ(output.find("w")->dtype, storage);
    const auto bytes = output.quantized("w").codes.bytes;
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (first.empty()) first = text;
    EXPECT_EQ(text, first);
  }
  write_safetensors(path("odd.safetensors"), {{"w", "F32", {3, 3}, raw_bytes(gaussian(9, 1))}});
  const Checkpoint odd(path("odd.safetensors"));
  QuantizeCheckpointOptions options;
  options.storage = DType::kBF16;
  EXPECT_NFLOAT_ERROR(quantize_checkpoint(odd, path("o.safetensors"), options), ErrorCode::kInvalidArgument,
                      "do not fill");
}

}  // namespace
}  // namespace nfloat
