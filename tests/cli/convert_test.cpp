// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/json.h"
#include "cli/checkpoint_maker.h"
#include "cli/process.h"
#include "support/paths.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
// A safetensors file read by hand: name -> (dtype, shape, bytes).
struct Stored {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

std::map<std::string, Stored> read_safetensors(const fs::path& path) {
  const std::string file = read_file(path);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  std::map<std::string, Stored> tensors;
  const Json header = Json::parse(file.substr(8, length));
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    const uint64_t begin = value["data_offsets"][0].get<uint64_t>(),
                   end = value["data_offsets"][1].get<uint64_t>();
    tensors[name] = {value["dtype"].text(), value["shape"].get<std::vector<int64_t>>(),
                     file.substr(8 + length + begin, end - begin)};
  }
  return tensors;
}

const std::string kWeight = "model.layers.0.mlp.up_proj.weight";

TEST_F(Cli, QuantizesTheEmbeddedModelAsTransformersWould) {
  const std::string packed = path("packed");
  ASSERT_TRUE(nfloat({"quantize", model(), packed, "--double-quantization"}).ok());
  const Json config = Json::parse(read_file(packed + "/config.json"));
  const Json& quantization = config.at("quantization_config");
  EXPECT_EQ(quantization.at("quant_method"), "bitsandbytes");
  EXPECT_EQ(quantization.at("bnb_4bit_quant_type"), "nf4");
  EXPECT_EQ(quantization.at("bnb_4bit_use_double_quant"), true);
  EXPECT_EQ(quantization.at("load_in_4bit"), true);

  const auto before = read_safetensors(model() + "/model.safetensors");
  const auto after = read_safetensors(packed + "/model.safetensors");
  ASSERT_TRUE(before.count(kWeight));
  for (const char* suffix : {"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
                             ".quant_state.bitsandbytes__nf4"}) {
    EXPECT_TRUE(after.count(kWeight + suffix)) << suffix;
  }
  const int64_t elements = before.at(kWeight).shape[0] * before.at(kWeight).shape[1];
  EXPECT_EQ(after.at(kWeight).shape, (std::vector<int64_t>{(elements + 1) / 2, 1}));
  EXPECT_EQ(after.at(kWeight + ".absmax").dtype, "U8");
  const Json state = Json::parse(after.at(kWeight + ".quant_state.bitsandbytes__nf4").bytes);
  EXPECT_EQ(state.at("blocksize"), 64);
  EXPECT_EQ(state.at("nested_blocksize"), 256);
  EXPECT_EQ(state.at("shape"), Json(before.at(kWeight).shape));

  // What bitsandbytes leaves alone is the same, byte for byte.
  for (const char* plain : {"model.embed_tokens.weight", "model.norm.weight"}) {
    ASSERT_TRUE(after.count(plain)) << plain;
    EXPECT_EQ(after.at(plain).bytes, before.at(plain).bytes) << plain;
  }
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(read_file(packed + "/" + file), read_file(model() + "/" + file)) << file;
  }
}

TEST_F(Cli, InspectFindsAFreshCheckpointHealthyAndMeasuresItsError) {
  for (const std::string scale : {"absmax", "search", "signed"}) {
    const std::string packed = path("packed-" + scale);
    ASSERT_TRUE(nfloat({"quantize", model(), packed, "--scale", scale, "--double-quant"}).ok()) << scale;
    const Result check = nfloat({"inspect", packed, "--check", "--against", model()});
    EXPECT_TRUE(check.ok()) << scale << check;
  }
}

TEST_F(Cli, DequantizesToAPlainCheckpointThatQuantizesToTheSameBytes) {
  const std::string packed = path("packed"), back = path("back"), again = path("again");
  ASSERT_TRUE(nfloat({"quantize", model(), packed}).ok());
  ASSERT_TRUE(nfloat({"dequantize", packed, back, "--dtype", "f32"}).ok());
  EXPECT_FALSE(Json::parse(read_file(back + "/config.json")).contains("quantization_config"));
  const auto plain = read_safetensors(back + "/model.safetensors");
  const auto original = read_safetensors(model() + "/model.safetensors");
  EXPECT_EQ(plain.size(), original.size());
  EXPECT_EQ(plain.at(kWeight).dtype, "F32");
  EXPECT_EQ(plain.at(kWeight).shape, original.at(kWeight).shape);

  // Quantizing a dequantized weight finds the same codes: every value is a level times its block's absmax.
  ASSERT_TRUE(nfloat({"quantize", back, again}).ok());
  EXPECT_EQ(read_safetensors(again + "/model.safetensors").at(kWeight).bytes,
            read_safetensors(packed + "/model.safetensors").at(kWeight).bytes);
}

TEST_F(Cli, OneFileInOneFileOut) {
  write_file(path("in.safetensors"), plain_file(96, 70));
  const std::string packed = path("packed.safetensors"), back = path("back.safetensors");
  ASSERT_TRUE(nfloat({"quantize", path("in.safetensors"), packed, "--block-size", "48"}).ok());
  ASSERT_TRUE(nfloat({"dequantize", packed, back, "--dtype", "f32"}).ok());
  const auto before = read_safetensors(path("in.safetensors")), after = read_safetensors(back);
  ASSERT_EQ(after.at("weight").bytes.size(), before.at("weight").bytes.size());
  for (size_t i = 0; i < before.at("weight").bytes.size(); i += 4) {
    float x = 0, y = 0;
    std::memcpy(&x, before.at("weight").bytes.data() + i, 4);
    std::memcpy(&y, after.at("weight").bytes.data() + i, 4);
    ASSERT_LE(std::fabs(x - y), 0.152F * 0.9F) << "element " << i / 4;
  }
}

TEST_F(Cli, SameBytesForEveryThreadCountAndInstructionSet) {
  const std::string first = path("first");
  ASSERT_TRUE(nfloat({"quantize", model(), first, "--preset", "best", "--threads", "1"}).ok());
  const auto expected = snapshot(first);
  for (const char* threads : {"2", "5"}) {
    ASSERT_TRUE(nfloat({"quantize", model(), path(threads), "--preset", "best", "--threads", threads}).ok());
    EXPECT_TRUE(snapshot(path(threads)) == expected) << threads << " threads";
  }
  for (const char* target : {"scalar", "avx2"}) {
    Limits limits;
    limits.environment["NFLOAT_TARGET"] = target;
    ASSERT_TRUE(nfloat({"quantize", model(), path(target), "--preset", "best"}, limits).ok());
    EXPECT_TRUE(snapshot(path(target)) == expected) << target;
  }
}

TEST_F(Cli, ShardsSplitAndJoin) {
  const std::string sharded = path("sharded"), whole = path("whole");
  ASSERT_TRUE(nfloat({"quantize", model(), sharded, "--shard-size", "1MB"}).ok());
  ASSERT_TRUE(nfloat({"quantize", model(), whole}).ok());
  const Json index = Json::parse(read_file(sharded + "/model.safetensors.index.json"));
  const auto joined = read_safetensors(whole + "/model.safetensors");
  std::map<std::string, std::map<std::string, Stored>> shards;
  EXPECT_EQ(index.at("weight_map").size(), joined.size());
  for (const auto& [name, tensor] : joined) {
    ASSERT_TRUE(index.at("weight_map").contains(name)) << name;
    const std::string file = index.at("weight_map").at(name).text();
    if (!shards.count(file)) shards[file] = read_safetensors(sharded + "/" + file);
    EXPECT_EQ(shards.at(file).at(name).bytes, tensor.bytes) << name;
  }
  EXPECT_GT(shards.size(), 1u);
  const Result back = nfloat({"dequantize", sharded, path("back")});
  EXPECT_TRUE(back.ok()) << back;
}

TEST_F(Cli, FollowsSymbolicLinksAndFindsTheHuggingFaceCache) {
  const fs::path snapshot_folder = folder_ / "hub/models--org--tiny/snapshots/0123abc";
  fs::create_directories(snapshot_folder);
  fs::create_directories(folder_ / "hub/models--org--tiny/refs");
  write_file(folder_ / "hub/models--org--tiny/refs/main", "0123abc");
  for (const auto& file : fs::directory_iterator(model())) {
    fs::create_symlink(file.path(), snapshot_folder / file.path().filename());
  }
  Limits limits;
  limits.environment["HF_HUB_CACHE"] = path("hub");
  const Result result = nfloat({"quantize", "org/tiny", path("packed")}, limits);
  ASSERT_TRUE(result.ok()) << result;
  for (const auto& file : fs::directory_iterator(path("packed"))) EXPECT_FALSE(file.is_symlink()) << file;
  EXPECT_TRUE(fs::exists(path("packed") + "/tokenizer.json"));
  expect_complaint(nfloat({"quantize", "org/absent", path("other")}, limits), {"org/absent", path("hub")});
}

TEST_F(Cli, SkipAndOnlyAndDryRun) {
  const Result dry =
      nfloat({"quantize", model(), "--dry-run", "--json", "--skip", "up_proj", "--only", "mlp"});
  ASSERT_TRUE(dry.ok()) << dry;
  int quantized = 0;
  const Json plan = Json::parse(dry.out);
  for (const Json& tensor : plan.at("tensors")) {
    const std::string name = tensor.at("name").text();
    const bool wanted = name.find("mlp") != std::string::npos && name.find("up_proj") == std::string::npos;
    EXPECT_EQ(tensor.at("quantized").get<bool>(), wanted) << name;
    quantized += wanted;
    if (!wanted) {
      EXPECT_NE(tensor.at("reason"), "") << name;
    }
  }
  EXPECT_GT(quantized, 0);
}

// Tensors that bitsandbytes' own code quantized, through the command line.
TEST_F(Cli, ReferenceCasesComeOutByteForByte) {
  const fs::path folder = fs::path(testing::shared_path("/reference/bitsandbytes"));
  if (!fs::exists(folder / "cases.json")) GTEST_SKIP() << "no ../shared/reference/bitsandbytes here";
  const Json cases = Json::parse(read_file(folder / "cases.json"));
  ASSERT_FALSE(cases.empty());
  const std::map<std::string, std::string> option_of = {{"F32", "f32"}, {"F16", "f16"}, {"BF16", "bf16"}};
  for (const Json& entry_of_case : cases) {
    const std::string name = entry_of_case.at("case").text();
    SCOPED_TRACE(name);
    const auto expected = read_safetensors(folder / (name + ".safetensors"));
    const Stored& input = expected.at("input");
    const std::string in = path(name + ".safetensors"), packed = path(name + "-packed.safetensors"),
                      back = path(name + "-back.safetensors");
    write_file(in,
               safetensors_bytes("{" + entry("weight", input.dtype, input.shape, 0, input.bytes.size()) + "}",
                                 input.bytes));
    std::vector<std::string> command = {"quantize",
                                        in,
                                        packed,
                                        "--format",
                                        entry_of_case.at("quant_type").text(),
                                        "--block-size",
                                        entry_of_case.at("block_size").dump()};
    if (entry_of_case.at("double_quantization").get<bool>()) command.push_back("--double-quantization");
    const Result quantized = nfloat(command);
    ASSERT_TRUE(quantized.ok()) << quantized;
    const auto made = read_safetensors(packed);
    for (const auto& [key, stored] : expected) {
      if (key == "input" || key == "dequantized") continue;
      ASSERT_TRUE(made.count(key)) << key;
      EXPECT_EQ(made.at(key).dtype, stored.dtype) << key;
      EXPECT_EQ(made.at(key).shape, stored.shape) << key;
      EXPECT_TRUE(made.at(key).bytes == stored.bytes) << key << " differs";
    }
    const Result restored = nfloat({"dequantize", packed, back, "--dtype", option_of.at(input.dtype)});
    ASSERT_TRUE(restored.ok()) << restored;
    EXPECT_TRUE(read_safetensors(back).at("weight").bytes == expected.at("dequantized").bytes);
  }
}

}  // namespace
}  // namespace nfloat::cli_test
