// SPDX-License-Identifier: Apache-2.0
// `nfloat convert`: folders to GGUF files and back.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>

#include "base/json.h"
#include "cli/process.h"
#include "nfloat/checkpoint.h"
#include "nfloat/gguf.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
// The same weights, byte for byte.
void expect_same(const std::string& found_path, const std::string& expected_path) {
  const Checkpoint found(found_path), expected(expected_path);
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const TensorInfo& tensor : expected.tensors()) {
    const TensorInfo* info = found.find(tensor.name);
    ASSERT_NE(info, nullptr) << tensor.name;
    ASSERT_EQ(info->dtype, tensor.dtype) << tensor.name;
    ASSERT_EQ(info->shape, tensor.shape) << tensor.name;
    const auto a = found.view(*info).bytes, b = expected.view(tensor).bytes;
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << tensor.name;
  }
}

std::string greedy(const std::string& model) {
  const Result result = nfloat({"generate", model, "-p", "Once upon a time", "-n", "24", "--temperature", "0",
                                "--precision", "f32", "--quiet"});
  EXPECT_TRUE(result.ok()) << result;
  return result.out;
}

TEST_F(Cli, ConvertsAFolderToGgufAndBackWithoutAChange) {
  const std::string file = path("tiny.gguf"), back = path("back");
  const Result there = nfloat({"convert", model(), file, "--type", "f32", "--check"});
  ASSERT_TRUE(there.ok()) << there;
  EXPECT_NE(there.out.find("nothing rounded"), std::string::npos) << there;
  EXPECT_NE(there.out.find("checked: every byte"), std::string::npos) << there;
  const Result here = nfloat({"convert", file, back, "--type", "bf16", "--check"});
  ASSERT_TRUE(here.ok()) << here;
  EXPECT_NE(here.out.find("nothing rounded"), std::string::npos) << here;
  expect_same(back, model());
  EXPECT_EQ(greedy(back), greedy(model()));
  EXPECT_EQ(greedy(file), greedy(model()));
}

TEST_F(Cli, AGgufFileBringsItsChatTemplateAndItsEnds) {
  const std::string folder = path("talker"), file = path("talker.gguf");
  std::filesystem::copy(model(), folder);
  Json config = Json::parse(read_file(folder + "/tokenizer_config.json"));
  config["chat_template"] = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
  write_file(folder + "/tokenizer_config.json", config.dump());
  ASSERT_TRUE(nfloat({"convert", folder, file}).ok());
  write_file(path("turn.json"), R"({"messages": [{"role": "system", "content": "Short."}]})");
  const Result from_file = nfloat({"chat", file, "--render", path("turn.json")});
  const Result from_folder = nfloat({"chat", folder, "--render", path("turn.json")});
  ASSERT_TRUE(from_file.ok()) << from_file;
  EXPECT_EQ(from_file.out, from_folder.out);
  EXPECT_NE(from_file.out.find("<system>Short."), std::string::npos);
}

TEST_F(Cli, CheckOpensTheTokenizerToo) {
  const std::string folder = path("copy"), file = path("copy.gguf");
  std::filesystem::copy(model(), folder);
  ASSERT_TRUE(nfloat({"convert", folder, file}).ok());
  EXPECT_TRUE(nfloat({"inspect", file, "--check"}).ok());
  EXPECT_TRUE(nfloat({"inspect", folder, "--check"}).ok());
  std::string bytes = read_file(file);
  const size_t at = bytes.find("tokenizer.ggml.pre");
  ASSERT_NE(at, std::string::npos);
  bytes[at + std::string("tokenizer.ggml.pre").size() + 4 + 8] = 'X';
  write_file(file, bytes);
  const Result damaged = nfloat({"inspect", file, "--check"});
  EXPECT_EQ(damaged.exit_code, 1) << damaged;
  EXPECT_NE(damaged.err.find("pre-tokenizer \"X"), std::string::npos) << damaged;
  write_file(folder + "/tokenizer.json", R"({"model": {"type": "Unheard"}})");
  const Result broken = nfloat({"inspect", folder, "--check"});
  EXPECT_EQ(broken.exit_code, 1) << broken;
  EXPECT_NE(broken.out.find("Unheard"), std::string::npos) << broken;
}

TEST_F(Cli, CheckAsksWhatTheLoaderAsks) {
  const std::string folder = path("copy"), file = path("copy.gguf");
  std::filesystem::copy(model(), folder);
  ASSERT_TRUE(nfloat({"convert", folder, file}).ok());
  const auto expect_error = [&](const std::string& what, const std::string& text) {
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             {"inspect", what, "--check"}, {"generate", what, "-p", "Once"}}) {
      const Result result = nfloat(command);
      EXPECT_EQ(result.exit_code, 1) << result;
      EXPECT_NE((result.out + result.err).find(text), std::string::npos) << text << result;
    }
  };
  const auto replace = [&](const std::string& where, const std::string& from, const std::string& to) {
    std::string bytes = read_file(where);
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write_file(where, bytes.replace(at, from.size(), to));
  };
  const std::string weights = folder + "/model.safetensors", config = folder + "/config.json";
  const std::string good = read_file(weights), usual = read_file(config);
  replace(weights, "\"model.norm.weight\"", "\"model.nrom.weight\"");
  expect_error(folder, "is missing: model.norm.weight");
  write_file(weights, std::string("\2\0\0\0\0\0\0\0{}", 10));
  expect_error(folder, "model.embed_tokens.weight");
  write_file(weights, good);
  replace(config, "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5");
  expect_error(folder, "does not have: model.layers.5.");
  write_file(config, usual);
  replace(config, "\"hidden_size\"", "\"hidden_sise\"");
  expect_error(folder, "\"hidden_size\" is missing");
  // A model that does not run here is not called bad.
  write_file(config, R"({"model_type": "bert"})");
  const Result other = nfloat({"inspect", folder, "--check"});
  EXPECT_TRUE(other.ok()) << other;
  EXPECT_NE(other.out.find("does not run in this version"), std::string::npos) << other;

  const std::string count("llama.block_count\4\0\0\0", 17 + 4);
  replace(file, count + '\6', count + '\5');
  expect_error(file, "does not have: model.layers.5.");
}

TEST_F(Cli, AFolderIsNotWrittenOfAFileThatDoesNotLoad) {
  const std::string good = path("good.gguf"), file = path("bad.gguf"), out = path("out");
  ASSERT_TRUE(nfloat({"convert", model(), good}).ok());
  const auto number = [](uint32_t value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  };
  struct Case {
    std::string key;
    uint32_t value;  // as the file has it
    std::string complaint;
  };
  for (const Case& one :
       {Case{"llama.block_count", 7, "model.layers.6."}, Case{"llama.block_count", 0xffffffff, "4294967295"},
        Case{"llama.embedding_length", 128, "disagree"},
        Case{"llama.attention.layer_norm_rms_epsilon", 0xbf800000, "is -1"},
        Case{"llama.rope.freq_base", 0, "is 0"}, Case{"llama.rope.freq_base", 0x7fc00000, "is nan"}}) {
    std::string bytes = read_file(good);
    const size_t at = bytes.find(one.key);
    ASSERT_NE(at, std::string::npos) << one.key;
    bytes.replace(at + one.key.size() + 4, 4, number(one.value));
    write_file(file, bytes);
    const Result result = nfloat({"convert", file, out});
    EXPECT_EQ(result.exit_code, 1) << one.key << result;
    EXPECT_NE(result.err.find(one.complaint), std::string::npos) << one.key << result;
    EXPECT_FALSE(std::filesystem::exists(out)) << one.key;
  }
  EXPECT_TRUE(nfloat({"convert", good, out}).ok());
}

TEST_F(Cli, CheckFindsWhatIsNotFinite) {
  const std::string folder = path("copy"), file = path("copy.gguf"), weights = folder + "/model.safetensors";
  std::filesystem::copy(model(), folder);
  ASSERT_TRUE(nfloat({"convert", folder, file, "--type", "q8_0"}).ok());
  std::string bytes = read_file(file);
  const GgufFile opened(file);
  const GgufTensor& tensor = *opened.find("blk.1.ffn_up.weight");
  const auto* place = opened.bytes(tensor).data();
  const size_t at = bytes.find(std::string_view(reinterpret_cast<const char*>(place), 34 * 4));
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at + 34, 2, "\xff\x7f");  // the scale of the second block
  write_file(file, bytes);
  const Result packed = nfloat({"inspect", file, "--check"});
  EXPECT_EQ(packed.exit_code, 1) << packed;
  EXPECT_NE(packed.out.find("ERROR: model.layers.1.mlp.up_proj.weight: 32 of "), std::string::npos) << packed;
  EXPECT_NE(packed.out.find("the first is element 32\n"), std::string::npos) << packed;
  const Checkpoint plain(folder);
  const TensorView norm = plain.view("model.norm.weight");
  bytes = read_file(weights);
  const size_t begin =
      bytes.find(std::string_view(reinterpret_cast<const char*>(norm.bytes.data()), norm.bytes.size()));
  ASSERT_NE(begin, std::string::npos);
  for (size_t i = 0; i < dtype_bytes(norm.dtype); ++i)
    bytes[begin + 5 * dtype_bytes(norm.dtype) + i] = '\x7f';
  bytes[begin + 6 * dtype_bytes(norm.dtype) - 2] = '\xff';
  write_file(weights, bytes);
  const Result result = nfloat({"inspect", folder, "--check"});
  EXPECT_EQ(result.exit_code, 1) << result;
  EXPECT_NE(result.out.find("ERROR: model.norm.weight: 1 of "), std::string::npos) << result;
  EXPECT_NE(result.out.find("the first is element 5\n"), std::string::npos) << result;
}

TEST_F(Cli, ConvertsNf4ToTheNumbersThatItStandsFor) {
  const std::string packed = path("nf4"), file = path("nf4.gguf"), plain = path("plain"), back = path("back");
  ASSERT_TRUE(nfloat({"quantize", model(), packed}).ok());
  ASSERT_TRUE(nfloat({"convert", packed, file, "--type", "f32", "--check"}).ok());
  ASSERT_TRUE(nfloat({"convert", packed, plain, "--type", "f32", "--check"}).ok());
  ASSERT_TRUE(nfloat({"convert", file, back, "--check"}).ok());
  expect_same(back, plain);
  EXPECT_FALSE(Json::parse(read_file(plain + "/config.json")).contains("quantization_config"));
  EXPECT_EQ(greedy(back), greedy(packed));
}

TEST_F(Cli, ConvertMeasuresWhatBlocksLose) {
  const std::string file = path("q8.gguf"), back = path("back");
  const Result there = nfloat({"convert", model(), file, "--type", "q8_0", "--json"});
  ASSERT_TRUE(there.ok()) << there;
  const Result here = nfloat({"convert", file, back, "--json"});
  ASSERT_TRUE(here.ok()) << here;
  size_t rounded = 0;
  const Json rounding = Json::parse(there.out), decoding = Json::parse(here.out);
  for (const Json& tensor : rounding.at("tensors")) {
    if (tensor.at("after") != "Q8_0") continue;
    ++rounded;
    EXPECT_FALSE(tensor.at("exact").get<bool>());
    // 8 bits of a block of 32 normal weights: 127 steps to the largest, some 2.1 deviations.
    EXPECT_NEAR(tensor.at("sqnr_db").get<double>(), 46, 4) << tensor;
  }
  EXPECT_GE(rounded, 42u);
  // Eight bits times a scale of eleven: the products do not fit into bf16.
  for (const Json& tensor : decoding.at("tensors"))
    if (tensor.at("before") == "Q8_0") {
      EXPECT_GT(tensor.at("sqnr_db").get<double>(), 45) << tensor;
    }
  EXPECT_EQ(decoding.at("files")[0], back + "/model.safetensors");
}

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

TEST_F(Cli, ConvertWritesSuperBlocks) {
  for (const auto& [type, least] :
       {std::pair{"q4_k", 20.0}, {"q5_k", 26.0}, {"q6_k", 32.0}, {"iq4_xs", 20.0}}) {
    const std::string file = path(std::string(type) + ".gguf"), other = path("other.gguf");
    const Result one =
        nfloat({"convert", model(), file, "--type", type, "--check", "--json", "--threads", "1"});
    ASSERT_TRUE(one.ok()) << one;
    const Json parsed = Json::parse(one.out);
    for (const Json& tensor : parsed.at("tensors")) {
      const std::string name = tensor.at("name").get<std::string>(),
                        after = tensor.at("after").get<std::string>();
      if (name == "token_embd.weight") {
        EXPECT_EQ(after, "Q8_0");
      } else if (name.find("norm") == std::string::npos) {
        EXPECT_EQ(after, upper(type)) << name;
        EXPECT_GT(tensor.at("sqnr_db").get<double>(), least) << name;
      }
    }
    const Result three = nfloat({"convert", model(), other, "--type", type, "--threads", "3", "--overwrite"});
    ASSERT_TRUE(three.ok()) << three;
    EXPECT_EQ(read_file(file), read_file(other)) << type << " depends on the number of threads";
    EXPECT_FALSE(greedy(file).empty());
  }
}

TEST_F(Cli, ConvertWritesPartsThatAreOneModel) {
  const std::string file = path("tiny.gguf");
  ASSERT_TRUE(nfloat({"convert", model(), file, "--part-size", "4MB"}).ok());
  ASSERT_FALSE(fs::exists(file));
  const std::string first = path("tiny-00001-of-00003.gguf");
  ASSERT_TRUE(fs::exists(first));
  EXPECT_EQ(greedy(first), greedy(model()));
}

TEST_F(Cli, ConvertNamesBadArguments) {
  const struct {
    std::vector<std::string> arguments;
    std::string named;
  } kCases[] = {{{model(), path("a.gguf"), "--type", "q9_9"}, "q9_9"},
                {{model(), path("a.gguf"), "--type", "q2_K"}, "Q2_K"},
                {{model(), path("a"), "--type", "q4_0"}, "Q4_0"},
                {{model(), path("a.gguf"), "--part-size", "many"}, "--part-size"},
                {{path("absent"), path("a.gguf")}, "absent"},
                {{model(), path("no/folder/a.gguf")}, "folder"},
                {{path("tiny.gguf"), path("a")}, "tiny.gguf"}};
  write_file(path("tiny.gguf"), "GGUF\3");
  for (const auto& one : kCases) {
    std::vector<std::string> arguments = {"convert"};
    arguments.insert(arguments.end(), one.arguments.begin(), one.arguments.end());
    const Result result = nfloat(arguments);
    EXPECT_FALSE(result.ok()) << result;
    EXPECT_NE(result.err.find(one.named), std::string::npos) << result;
    EXPECT_FALSE(fs::exists(path("a.gguf")) || fs::exists(path("a"))) << one.named;
  }
}

TEST_F(Cli, ConvertReplacesOnlyWhenAskedTo) {
  const std::string file = path("tiny.gguf");
  write_file(file, "mine");
  const Result refused = nfloat({"convert", model(), file});
  EXPECT_FALSE(refused.ok());
  EXPECT_NE(refused.err.find("tiny.gguf"), std::string::npos) << refused;
  // What is replaced was written by such a command, or is empty.
  expect_complaint(nfloat({"convert", model(), file, "--overwrite"}), {"tiny.gguf", "not a GGUF model"});
  EXPECT_EQ(read_file(file), "mine");
  for (const std::string& old : {std::string(), read_file(model() + "/config.json")}) {
    write_file(file, old);
    EXPECT_EQ(nfloat({"convert", model(), file, "--overwrite"}).ok(), old.empty());
  }
  fs::remove(file);
  ASSERT_TRUE(nfloat({"convert", model(), file, "--type", "q8_0"}).ok());
  EXPECT_TRUE(nfloat({"convert", model(), file, "--overwrite"}).ok());
  EXPECT_EQ(greedy(file), greedy(model()));
  size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) entries += entry.exists() ? 1 : 0;
  EXPECT_EQ(entries, 1u) << "something was left";
}

}  // namespace
}  // namespace nfloat::cli_test
