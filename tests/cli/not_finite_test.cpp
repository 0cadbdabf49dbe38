// SPDX-License-Identifier: Apache-2.0
// Weights that are NaN or infinite, and finite ones whose numbers get too large: an error, never a result.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/json.h"
#include "cli/process.h"
#include "nfloat/checkpoint.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class NotFinite : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    fs::copy(model(), path("model"), fs::copy_options::recursive);
    write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 600));
  }

  // Sets element `index` of a tensor to the bits of its type: NaN, infinity or the largest number.
  enum class Value { kNan, kInfinity, kLargest };
  void set(const std::string& tensor, uint64_t index, Value value) const {
    std::string file = read_file(path("model/model.safetensors"));
    uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    const Json entry = Json::parse(file.substr(8, length)).at(tensor);
    const auto dtype = entry.at("dtype").get<std::string>();
    const auto begin = entry.at("data_offsets").at(0).get<uint64_t>();
    const bool wide = dtype == "F32", half = dtype == "F16";
    ASSERT_TRUE(wide || half || dtype == "BF16") << dtype;
    const uint32_t of_bf16[] = {0x7fc0, 0x7f80, 0x7f7f}, of_f16[] = {0x7e00, 0x7c00, 0x7bff};
    const auto which = static_cast<size_t>(value);
    const uint32_t bits = wide ? of_bf16[which] << 16 : half ? of_f16[which] : of_bf16[which];
    const size_t bytes = wide ? 4 : 2;
    std::memcpy(file.data() + 8 + length + begin + index * bytes, &bits, bytes);
    write_file(path("model/model.safetensors"), file);
  }
  Result run(std::vector<std::string> command) const {
    if (command[0] == "perplexity") command.insert(command.end(), {"--protocol", "bos"});
    Limits limits;
    limits.environment["XDG_CACHE_HOME"] = path("cache");
    return nfloat(command, limits);
  }
};

// Standard error may hold notes before it.
void expect_sentence(const Result& result, const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, 1) << result;
  EXPECT_EQ(result.out, "") << result;
  for (const std::string& word : words) EXPECT_NE(result.err.find(word), std::string::npos) << word << result;
}

TEST_F(NotFinite, LayerAndTensorAreNamed) {
  set("model.layers.1.mlp.down_proj.weight", 77, Value::kNan);
  const std::vector<std::string> words = {"layer 1", "model.layers.1.mlp.down_proj.weight", "NaN",
                                          "index 77"};
  expect_sentence(run({"perplexity", path("model"), "--text", path("text")}), words);
  expect_sentence(run({"perplexity", path("model"), "--text", path("text"), "--precision", "bf16"}), words);
  expect_sentence(run({"perplexity", model(), "--text", path("text"), "--reference", path("model")}), words);
  expect_sentence(run({"perplexity", path("model"), "--text", path("text"), "--reference", model()}), words);
  expect_sentence(run({"compare", path("model"), "--text", path("text"), "--formats", "q8_0"}), words);
  write_file(path("task.jsonl"), R"({"query":"One day a","choices":["girl","of","it","so"],"gold":0})"
                                 "\n");
  expect_sentence(run({"evaluate", path("model"), "--task", "arc-easy", "--data", path("task.jsonl")}),
                  words);
}

TEST_F(NotFinite, WhatLiesOutsideOfTheLayersIsNamed) {
  set("model.norm.weight", 3, Value::kInfinity);
  expect_sentence(run({"perplexity", path("model"), "--text", path("text")}),
                  {"after the last layer", "model.norm.weight", "infinity", "index 3"});
}

TEST_F(NotFinite, AnInt8HeadHidesNothing) {
  set("model.embed_tokens.weight", 4095 * 256 + 5, Value::kNan);  // of a token that the text does not have
  expect_sentence(run({"perplexity", path("model"), "--text", path("text"), "--head", "int8"}),
                  {"after the last layer", "model.embed_tokens.weight", "index 1048325"});
}

// A frozen number may show in gradients alone, which name an innocent matrix of the adapter: what is named is
// the tensor, and the token where one of the data has it for its embedding.
TEST_F(NotFinite, TrainingNamesTheFrozenTensor) {
  write_file(path("ids.jsonl"), R"({"input_ids": [0, 50, 86, 440, 15], "labels": [-100, 50, 86, 440, -100]})"
                                "\n");
  const auto train = [&](const std::vector<std::string>& words) {
    const Result result = run({"train", path("model"), path("ids.jsonl"), "--out", path("out"), "--steps",
                               "2", "--rank", "2", "--quiet"});
    expect_sentence(result, words);
    EXPECT_FALSE(fs::exists(path("out/adapter_model.safetensors")));
    fs::remove_all(path("out"));
  };
  const std::string embeddings = "tensor 'model.embed_tokens.weight' holds ";
  const std::string whole = read_file(path("model/model.safetensors"));
  const auto again = [&] { write_file(path("model/model.safetensors"), whole); };
  // The last token of the row: no target comes behind it.
  set("model.embed_tokens.weight", 15 * 256 + 5, Value::kNan);
  train({"row 1 of the data: the embedding of its token 5, which is 15, is not finite",
         embeddings + "NaN at index 3845, in row 15"});
  again();
  set("model.embed_tokens.weight", 50 * 256, Value::kInfinity);
  train({"row 1 of the data: the embedding of its token 2, which is 50, is not finite",
         embeddings + "an infinity at index 12800, in row 50"});
  again();
  set("model.embed_tokens.weight", 4095 * 256 + 5, Value::kNan);  // of a token that the data does not have
  train({"step 1: ", embeddings + "NaN at index 1048325, in row 4095"});
  again();
  set("model.layers.2.self_attn.k_proj.weight", 256 + 1, Value::kNan);
  train({"step 1: ", "tensor 'model.layers.2.self_attn.k_proj.weight' holds NaN at index 257, in row 1"});
}

// Between types of floats, on every way, what is not finite stays as it is and is told.
TEST_F(NotFinite, ConversionKeepsAndTellsIt) {
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  set(name, 77, Value::kNan);
  set(name, 300, Value::kInfinity);
  const std::string folder = path("model"), gguf = path("f32.gguf");
  const std::string stored = Checkpoint(folder).stored_type(name);
  const std::string same = stored == "F32" ? "f32" : stored == "F16" ? "f16" : "bf16";
  const auto expect_told = [&](const std::string& in, const std::string& out, const std::string& type,
                               const std::string& tensor) {
    const Result told = run({"convert", in, out, "--type", type, "--json", "--quiet", "--check"});
    ASSERT_TRUE(told.ok()) << told;
    EXPECT_EQ(told.err, "nfloat: warning: '" + tensor +
                            "': 2 values NaN or infinite (SQNR leaves that out), the first is element 77\n");
    const Json json = Json::parse(told.out);
    EXPECT_EQ(json.at("not_finite"), 2);
    for (const Json& one : json.at("tensors")) {
      EXPECT_EQ(one.contains("not_finite"), one.at("name") == tensor);
      if (one.at("name") != tensor) continue;
      EXPECT_EQ(one.at("not_finite"), 2);
      EXPECT_EQ(one.at("first_not_finite"), 77);
    }
  };
  expect_told(folder, gguf, "f32", "blk.1.ffn_down.weight");
  expect_told(folder, path("same.gguf"), same, "blk.1.ffn_down.weight");
  expect_told(gguf, path("back"), same, name);
  expect_told(path("same.gguf"), path("wide"), "f32", name);
  expect_told(folder, path("copy"), "auto", name);
  expect_told(folder, path("floats"), "f32", name);
  const Checkpoint before(folder), after(path("back"));
  const auto a = before.view(name).bytes, b = after.view(name).bytes;
  EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  const Result refused = run({"convert", folder, path("q8.gguf"), "--type", "q8_0"});
  expect_sentence(refused, {"blk.1.ffn_down.weight", "has no place in Q8_0"});
}

TEST_F(NotFinite, ConversionTellsItOfAFewTensorsOnly) {
  const Checkpoint checkpoint(path("model"));
  size_t tensors = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    set(tensor.name, 0, Value::kNan);
    ++tensors;
  }
  ASSERT_GT(tensors, 6u);
  const Result result = run({"convert", path("model"), path("copy")});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 6) << result;
  EXPECT_NE(result.err.find("1 value NaN or infinite (SQNR leaves that out), the first is element 0\n"),
            std::string::npos)
      << result;
  EXPECT_NE(result.err.find("in " + std::to_string(tensors - 5) + " more tensors"), std::string::npos)
      << result;
}

}  // namespace
}  // namespace nfloat::cli_test
