// SPDX-License-Identifier: Apache-2.0
// `nfloat convert --lora`: an adapter as PEFT saves it, merged into plain and 4-bit bases; pairs that it
// lacks.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/json.h"
#include "cli/process.h"
#include "nfloat/checkpoint.h"

namespace nfloat::cli_test {
namespace {

class Lora : public Cli {
 protected:
  struct Matrix {
    int64_t rows, cols;
    std::vector<float> values;
  };
  static constexpr int64_t kRank = 3;
  static constexpr double kAlpha = 6;
  const std::string module_ = "model.layers.1.mlp.up_proj", weight_ = module_ + ".weight";

  static Matrix random_matrix(int64_t rows, int64_t cols, unsigned seed) {
    Matrix matrix{rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float& value : matrix.values) value = 0.05f * normal(random);
    return matrix;
  }
  // Writes an adapter folder with these float32 tensors.
  std::string adapter(const std::map<std::string, Matrix>& tensors, const Json& settings = Json::object()) {
    const std::string folder = path("adapter");
    std::filesystem::create_directories(folder);
    Json config{{"peft_type", "LORA"}, {"r", kRank}, {"lora_alpha", kAlpha}, {"fan_in_fan_out", false}};
    for (const auto& [name, value] : settings.items()) config[name] = value;
    write_file(folder + "/adapter_config.json", config.dump());
    Json header = Json::object();
    std::string bytes;
    for (const auto& [name, matrix] : tensors) {
      const size_t begin = bytes.size();
      bytes.append(reinterpret_cast<const char*>(matrix.values.data()), matrix.values.size() * sizeof(float));
      header[name] = {
          {"dtype", "F32"}, {"shape", {matrix.rows, matrix.cols}}, {"data_offsets", {begin, bytes.size()}}};
    }
    const std::string text = header.dump();
    const uint64_t length = text.size();
    std::string file(reinterpret_cast<const char*>(&length), sizeof length);
    write_file(folder + "/adapter_model.safetensors", file + text + bytes);
    return folder;
  }
  std::string name(const char* part) const { return "base_model.model." + module_ + part; }
  std::map<std::string, Matrix> pair() {
    const Shape shape = Checkpoint(model()).weight_shape(weight_);
    return {{name(".lora_A.weight"), random_matrix(kRank, shape[1], 1)},
            {name(".lora_B.weight"), random_matrix(shape[0], kRank, 2)}};
  }
  static std::vector<float> floats(const std::string& folder, const std::string& tensor) {
    const Checkpoint checkpoint(folder);
    const TensorView view = checkpoint.view(tensor);
    std::vector<float> values(static_cast<size_t>(view.elements()));
    convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
    return values;
  }
  // Every weight of `merged` (float32) is that of `base`; `weight_` has scale * B * A on top.
  void expect_merged(const std::string& merged, const std::string& base, double scale) {
    const auto tensors = pair();
    const Matrix &a = tensors.at(name(".lora_A.weight")), &b = tensors.at(name(".lora_B.weight"));
    const std::vector<float> before = floats(base, weight_), after = floats(merged, weight_);
    ASSERT_EQ(before.size(), after.size());
    int64_t changed = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(before.size()); ++i) {
      const int64_t row = i / a.cols, col = i % a.cols;
      double change = 0, size = 0;
      for (int64_t k = 0; k < kRank; ++k) {
        const double product = double{b.values[static_cast<size_t>(row * kRank + k)]} *
                               a.values[static_cast<size_t>(k * a.cols + col)];
        change += scale * product;
        size += std::fabs(scale * product);
      }
      const auto at = static_cast<size_t>(i);
      // Each of the rank products, their sum and the last addition round once.
      ASSERT_NEAR(after[at], before[at] + change,
                  0x1p-24 * ((kRank + 2) * size + std::fabs(before[at] + change)))
          << i;
      changed += after[at] != before[at];
    }
    EXPECT_GT(changed, a.cols * b.rows * 9 / 10);
    const Checkpoint checkpoint(base);
    for (const std::string& other : checkpoint.weight_names()) {
      if (other == weight_) continue;
      EXPECT_EQ(floats(merged, other), floats(base, other)) << other;
    }
  }
};

TEST_F(Lora, IsAddedToAPlainModel) {
  const std::string folder = adapter(pair());
  const Result result =
      nfloat({"convert", model(), path("merged"), "--lora", folder, "--type", "f32", "--check", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(Json::parse(result.out)["merged"], 1);
  expect_merged(path("merged"), model(), kAlpha / kRank);
}

TEST_F(Lora, PairsThatTheConfigurationAsksForAndTheFileLacksAreNamed) {
  const auto told = [&](const Json& settings, const std::string& out) {
    const Result result =
        nfloat({"convert", model(), path(out), "--lora", adapter(pair(), settings), "--json"});
    EXPECT_TRUE(result.ok()) << result;
    const Json lost = Json::parse(result.out)["lost"];
    std::string all;
    for (const Json& line : lost) all += line.text() + "\n";
    return all;
  };
  const Json one{{"target_modules", {"up_proj"}}, {"layers_to_transform", {1}}};
  EXPECT_EQ(told(one, "a").find("pair"), std::string::npos);
  const Json two{{"target_modules", {"up_proj", "q_proj"}}, {"layers_to_transform", {1}}};
  const std::string pair_of_two = told(two, "b");
  EXPECT_NE(pair_of_two.find("a pair for 'model.layers.1.self_attn.q_proj'"), std::string::npos)
      << pair_of_two;
  const std::string gguf = told({{"target_modules", {"up_proj"}}}, "c.gguf");
  EXPECT_NE(gguf.find("pairs, for 'model.layers.0.mlp.up_proj' to"), std::string::npos) << gguf;
}

// The same sentence by everything that computes with an adapter, with --quiet too.
TEST_F(Lora, PairsThatAreLackedAreNamedByWhatRunsWithAnAdapter) {
  write_file(path("text.txt"), std::string(40, 'a') + " the cat sat on the mat, and the dog by the door.");
  write_file(path("rows.jsonl"), "{\"text\": \"The cat sat on the mat.\"}\n");
  const std::string folder = path("adapter");
  const std::vector<std::vector<std::string>> commands = {
      {"generate", model(), "-p", "The", "-n", "2", "--lora", folder, "--quiet"},
      {"generate", model(), "-p", "The", "-n", "2", "--lora", folder + ":0.5"},
      {"perplexity", model(), "--text", path("text.txt"), "--context", "16", "--lora", folder},
      {"compare", model(), "--text", path("text.txt"), "--context", "16", "--formats", "nf4:64", "--lora",
       folder},
      {"train", model(), path("rows.jsonl"), "--init", folder, "--dry-run", "--steps", "1"},
      {"train", model(), path("rows.jsonl"), "--init", folder, "--steps", "1", "--lr", "1e-3,1e-4"},
      {"serve", model(), "--port", "0", "--quiet", "--adapter", "mine=" + folder},
      {"convert", folder, path("out.gguf"), "--adapter-of", model(), "--overwrite"}};
  const std::string words = "asks for a pair for 'model.layers.1.self_attn.q_proj'";
  ServiceManager manager("@nfloat-lora-test-" + std::to_string(::getpid()));
  for (const bool lacks : {false, true}) {
    std::vector<std::string> targets{"up_proj"};
    if (lacks) targets.push_back("q_proj");
    adapter(pair(), {{"target_modules", targets}, {"layers_to_transform", {1}}});
    for (const std::vector<std::string>& command : commands) {
      Limits limits;
      if (command[0] == "serve") limits = manager.until_ready();
      manager.forget();
      const Result result = nfloat(command, limits);
      EXPECT_TRUE(result.ok()) << result;
      const std::string all = result.out + result.err;
      const size_t at = all.find(words);
      EXPECT_EQ(at != std::string::npos, lacks) << result;
      if (!lacks) continue;
      EXPECT_EQ(all.find(words, at + 1), std::string::npos) << result;
      EXPECT_NE(all.find(command[0] == "compare"   ? "Warning: "
                         : command[0] == "convert" ? "lost: "
                                                   : "nfloat: warning: "),
                std::string::npos)
          << result;
    }
  }
}

// One reading by everything that takes an adapter.
TEST_F(Lora, APartThatIsThereTwiceIsNamed) {
  write_file(path("text.txt"), std::string(40, 'a') + " the cat sat on the mat, and the dog by the door.");
  write_file(path("rows.jsonl"), "{\"text\": \"The cat sat on the mat.\"}\n");
  const std::string folder = path("adapter");
  const std::vector<std::vector<std::string>> commands = {
      {"perplexity", model(), "--text", path("text.txt"), "--context", "16", "--lora", folder},
      {"train", model(), path("rows.jsonl"), "--init", folder, "--out", path("out"), "--quiet", "--steps",
       "1"},
      {"convert", folder, path("out.gguf"), "--adapter-of", model()},
      {"convert", model(), path("merged"), "--lora", folder}};
  auto twice = pair(), two = pair();
  twice[name(".lora_A.default.weight")] = twice[name(".lora_A.weight")];
  two[name(".lora_A.one.weight")] = two[name(".lora_A.weight")];
  two[name(".lora_B.other.weight")] = two[name(".lora_B.weight")];
  two.erase(name(".lora_A.weight"));
  two.erase(name(".lora_B.weight"));
  for (const std::vector<std::string>& command : commands) {
    adapter(twice);
    expect_complaint(nfloat(command), {"lora_A.weight", "lora_A.default.weight", "the same part of"});
    adapter(two);
    expect_complaint(nfloat(command), {"two adapters, 'one' and 'other'"});
  }
}

TEST_F(Lora, IsAddedToAFourBitModelAndItsErrorThereafterIsToldByInspect) {
  const std::string base = path("base"), plain = path("plain"), folder = adapter(pair());
  ASSERT_TRUE(nfloat({"quantize", model(), base, "--double-quant"}).ok());
  ASSERT_TRUE(nfloat({"convert", base, plain, "--type", "f32"}).ok());
  ASSERT_TRUE(nfloat({"convert", base, path("merged"), "--lora", folder, "--type", "f32", "--check"}).ok());
  expect_merged(path("merged"), plain, kAlpha / kRank);
  // Back into 4 bits, and what that costs, tensor by tensor.
  ASSERT_TRUE(nfloat({"quantize", path("merged"), path("again"), "--double-quant"}).ok());
  const Result told = nfloat({"inspect", path("again"), "--against", path("merged"), "--json"});
  ASSERT_TRUE(told.ok()) << told;
  EXPECT_NE(told.out.find(weight_), std::string::npos);
}

TEST_F(Lora, LeavesAFourBitModelInFourBits) {
  const std::string folder = adapter(pair());
  for (const std::string scale : {"absmax", "signed"}) {
    const std::string base = path("base-" + scale), out = path("out-" + scale),
                      plain = path("plain-" + scale);
    ASSERT_TRUE(nfloat({"quantize", model(), base, "--double-quant", "--block-size", "32"}).ok());
    const Result told =
        nfloat({"convert", base, out, "--lora", folder, "--type", "base", "--scale", scale, "--json"});
    ASSERT_TRUE(told.ok()) << told;
    EXPECT_TRUE(nfloat({"inspect", out, "--check"}).ok());
    // The scales are those of merging into float32 and quantizing that; the codes are chosen together.
    ASSERT_TRUE(nfloat({"convert", base, plain, "--lora", folder, "--type", "f32"}).ok());
    const std::string again = path("again-" + scale);
    ASSERT_TRUE(
        nfloat({"quantize", plain, again, "--double-quant", "--block-size", "32", "--scale", scale}).ok());
    const Checkpoint before(base), after(out), expected(again);
    const auto bytes = [](const Checkpoint& checkpoint, const std::string& name) {
      const TensorView view = checkpoint.view(name);
      return std::string(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
    };
    ASSERT_EQ(before.tensors().size(), after.tensors().size());
    int64_t merged = 0;
    for (const TensorInfo& tensor : before.tensors()) {
      const bool changed = tensor.name.starts_with(weight_);
      merged += changed ? 1 : 0;
      if (tensor.name.find("quant_state") != std::string::npos && changed) continue;
      if (tensor.name == weight_) continue;
      EXPECT_EQ(bytes(after, tensor.name), bytes(changed ? expected : before, tensor.name)) << tensor.name;
    }
    EXPECT_EQ(merged, 6);
    EXPECT_EQ(after.quantized(weight_).dtype, before.quantized(weight_).dtype);
    EXPECT_EQ(Json::parse(read_file(out + "/config.json")), Json::parse(read_file(base + "/config.json")));
    const Result inspected = nfloat({"inspect", again, "--against", plain, "--json"});
    const auto sqnr = [&](const Json& tensors) {
      for (const Json& tensor : tensors)
        if (tensor["name"] == weight_) return tensor["sqnr_db"].get<double>();
      return 0.0;
    };
    const Json result = Json::parse(told.out);
    EXPECT_EQ(result["merged"], 1);
    const double measured = sqnr(result["tensors"]);
    EXPECT_GT(measured, 15);
    EXPECT_NE(inspected.out.find(weight_), std::string::npos);
    // The nearest codes have the least error, and lose the adapter.
    EXPECT_LE(measured, sqnr(Json::parse(inspected.out)["errors"]) + 1e-9);
    EXPECT_GT(measured, sqnr(Json::parse(inspected.out)["errors"]) - 6);
  }
  const auto refused = [&](std::vector<std::string> arguments, const std::vector<std::string>& words) {
    const Result result = nfloat(arguments);
    EXPECT_NE(result.exit_code, 0);
    for (const std::string& word : words) EXPECT_NE(result.err.find(word), std::string::npos) << result;
  };
  refused({"convert", model(), path("x"), "--lora", folder, "--type", "base"}, {"no 4-bit weights"});
  refused({"convert", path("base-absmax"), path("x"), "--type", "base"}, {"--lora"});
  refused({"convert", path("base-absmax"), path("x"), "--lora", folder, "--scale", "signed"},
          {"--type base"});
}

TEST_F(Lora, GoesIntoGguf) {
  const std::string folder =
      adapter(pair(), {{"use_rslora", true}, {"alpha_pattern", {{"up_proj", 2.5}, {"other", 9}}}});
  const Result result =
      nfloat({"convert", model(), path("merged.gguf"), "--lora", folder, "--type", "f32", "--check"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("+ LoRA"), std::string::npos) << result;
  ASSERT_TRUE(nfloat({"convert", path("merged.gguf"), path("merged"), "--type", "f32"}).ok());
  expect_merged(path("merged"), model(), 2.5 / std::sqrt(static_cast<double>(kRank)));
}

TEST_F(Lora, BadAdaptersAreNamed) {
  const auto complain = [&](const std::map<std::string, Matrix>& tensors, const Json& settings,
                            const std::vector<std::string>& words) {
    const std::string folder = adapter(tensors, settings);
    expect_complaint(nfloat({"convert", model(), path("merged"), "--lora", folder}), words);
    EXPECT_FALSE(std::filesystem::exists(path("merged")));
  };
  const auto good = pair();
  complain(good, {{"peft_type", "IA3"}}, {"peft_type"});
  complain(good, {{"lora_alpha", "six"}}, {"lora_alpha"});
  auto tensors = good;
  tensors.erase(name(".lora_B.weight"));
  complain(tensors, {}, {"lora_A", "lora_B"});
  tensors = good;
  tensors.erase(name(".lora_A.weight"));
  complain(tensors, {}, {"lora_A", "lora_B"});
  tensors = good;
  tensors[name(".lora_B.weight")] = random_matrix(7, kRank, 3);
  complain(tensors, {}, {module_, "[7, "});
  tensors = good;
  tensors[name(".lora_B.weight")] = random_matrix(7, kRank + 1, 3);
  complain(tensors, {}, {"ranks do not agree"});
  tensors = good;
  tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = random_matrix(2, 2, 3);
  complain(tensors, {}, {"lora_embedding_A"});
  tensors = {{"base_model.model.model.layers.99.x.lora_A.weight", random_matrix(kRank, 4, 1)},
             {"base_model.model.model.layers.99.x.lora_B.weight", random_matrix(4, kRank, 1)}};
  complain(tensors, {}, {"layers.99.x"});
  tensors = good;
  tensors[name(".lora_A.weight")].values[5] = NAN;
  complain(tensors, {}, {"lora_A", "NaN", "5"});
  complain({}, {}, {"no LoRA matrices"});
  expect_complaint(nfloat({"convert", model(), path("merged"), "--lora", path("absent")}),
                   {"absent", "no such file"});
  std::filesystem::create_directories(path("empty"));
  expect_complaint(nfloat({"convert", model(), path("merged"), "--lora", path("empty")}),
                   {"empty", "adapter_config.json"});
}

TEST_F(Lora, StreamedLayersSayWhatToDo) {
  write_file(path("text"), std::string(200, 'a'));
  expect_complaint(nfloat({"perplexity", model(), "--text", path("text"), "--context", "16",
                           "--stream-layers", "--lora", adapter(pair())}),
                   {"layers that stay in memory", "nfloat convert MODEL OUT --lora ADAPTER"});
}

}  // namespace
}  // namespace nfloat::cli_test
