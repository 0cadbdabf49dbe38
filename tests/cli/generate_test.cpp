// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/process.h"
#include "cli/terminal.h"

namespace nfloat::cli_test {
namespace {

using Generate = Cli;
using Perplexity = Cli;

TEST_F(Generate, SameSeedSameText) {
  const std::vector<std::string> command{"generate", model(), "-p",     "The old lighthouse",
                                         "-n",       "20",    "--seed", "7"};
  const Result first = nfloat(command), second = nfloat(command);
  ASSERT_TRUE(first.ok()) << first;
  EXPECT_EQ(first.out, second.out);
  EXPECT_GT(first.out.size(), 20u);
}

TEST_F(Generate, GreedyTextOfTheReference) {
  const Json reference = Json::parse(read_file(model() + "/reference.json"));
  const Result result =
      nfloat({"generate", model(), "-p", reference["prompt_text"].get<std::string>(), "-n", "32",
              "--temperature", "0", "--precision", "f32", "--json", "--logprobs", "2"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["prompt_tokens"], reference["prompt_ids"]);
  EXPECT_EQ(json["tokens"], reference["plain"]["greedy_32"]);
  EXPECT_EQ(json["text"], reference["plain"]["greedy_text"]);
  EXPECT_EQ(json["finish_reason"], "length");
  ASSERT_EQ(json["logprobs"].size(), 32u);
  EXPECT_EQ(json["logprobs"][0]["top"].size(), 2u);
  EXPECT_EQ(json["logprobs"][0]["id"], json["logprobs"][0]["top"][0]["id"]);
  EXPECT_LT(json["logprobs"][0]["logprob"].get<double>(), 0);
}

TEST_F(Generate, StopsBeforeAStopText) {
  const Result result = nfloat({"generate", model(), "-p", "On the farthest end of Gannet Point", "-n", "64",
                                "--temperature", "0", "--stop", " the", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["text"].get<std::string>().find(" the"), std::string::npos);
}

TEST_F(Generate, LimitsOfTheModelHoldWhereTheUserGivesNone) {
  const std::string folder = path("m");
  std::filesystem::copy(model(), folder, std::filesystem::copy_options::recursive);
  std::filesystem::permissions(folder, std::filesystem::perms::owner_all);
  const std::string config = folder + "/generation_config.json";
  const auto tokens = [&](const char* text, std::vector<std::string> more = {}) {
    std::filesystem::remove(config);
    write_file(config, text);
    std::vector<std::string> command{"generate", folder,        "-p", "On the farthest end",
                                     "--json",   "--ignore-eos"};
    command.insert(command.end(), more.begin(), more.end());
    const Result result = nfloat(command);
    EXPECT_TRUE(result.ok()) << result;
    return Json::parse(result.out)["tokens"].size();
  };
  EXPECT_EQ(tokens(R"({"max_new_tokens": 3})"), 3u);
  EXPECT_EQ(tokens(R"({"max_new_tokens": 3})", {"-n", "5"}), 5u);
  EXPECT_EQ(tokens("{}"), 128u);
  write_file(config, R"({"max_length": 2})");
  const Result refused = nfloat({"generate", folder, "-p", "On the farthest end"});
  EXPECT_EQ(refused.exit_code, 1) << refused;
  EXPECT_NE(refused.err.find("max_length"), std::string::npos) << refused;
}

TEST_F(Generate, QuantizesWithLevelsFromAFile) {
  const Result code = nfloat({"codebook", "nf4", "--json"});
  ASSERT_TRUE(code.ok()) << code;
  write_file(path("mine.json"), Json::parse(code.out)["levels"].dump());
  const auto text = [&](const std::string& quantize) {
    return nfloat({"generate", model(), "-p", "The old lighthouse", "--temperature", "0", "-n", "12",
                   "--quiet", "--quantize", quantize});
  };
  const Result named = text("nf4:32"), file = text(path("mine.json") + ":32");
  ASSERT_TRUE(named.ok() && file.ok()) << file;
  EXPECT_EQ(file.out, named.out);
  expect_complaint(text(path("absent.json")), {"absent.json"});
}

TEST_F(Generate, ATerminalShowsControlCharactersAndDoesNotObeyThem) {
  Terminal terminal({"generate", model(), "-p", "A\x1b[31mB end", "--echo", "-n", "1", "--quiet"});
  const std::string seen = terminal.wait_for("end");
  EXPECT_NE(seen.find("A\\x1b[31mB end"), std::string::npos) << seen;
}

TEST_F(Generate, TakesThePromptFromAFile) {
  write_file(path("prompt.txt"), "The old lighthouse");
  const auto text = [&](const std::vector<std::string>& prompt) {
    std::vector<std::string> all{"generate", model(), "--temperature", "0", "-n", "8", "--quiet"};
    all.insert(all.end(), prompt.begin(), prompt.end());
    return nfloat(all);
  };
  const Result file = text({"--file", path("prompt.txt")});
  ASSERT_TRUE(file.ok()) << file;
  EXPECT_EQ(file.out, text({"-p", "The old lighthouse"}).out);
  EXPECT_EQ(text({"--file", path("prompt.txt"), "-p", "a"}).exit_code, 2);
  expect_complaint(text({"--file", path("absent.txt")}), {"absent.txt"});
}

TEST_F(Generate, BadInputIsNamed) {
  std::string far;
  for (int i = 0; i < 600; ++i) far += "word ";
  expect_complaint(nfloat({"generate", model(), "-p", far}), {"prompt", "context", "512"});
  expect_complaint(nfloat({"generate", model(), "-p", "a", "--top-p", "7"}), {"top-p", "7"});
  expect_complaint(nfloat({"generate", path("absent"), "-p", "a"}), {"absent"});
  EXPECT_EQ(nfloat({"generate", model(), "-p", "a", "--logprobs", "3"}).exit_code, 2);
  EXPECT_TRUE(nfloat({"generate", model(), "-p", "caf\xc3\xa9 \xff\xfe", "-n", "4"}).ok());
}

TEST_F(Perplexity, OfTheEmbeddedModel) {
  const Result result = nfloat({"perplexity", model(), "--text", model() + "/stories.txt", "--protocol",
                                "bos", "--context", "256", "--precision", "f32", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["tokens"], 21886);
  EXPECT_NEAR(json["perplexity"].get<double>(), 28.082954811050435, 0.0028);
}

TEST_F(Perplexity, OfLlamaCppsProtocol) {
  const Result result = nfloat({"perplexity", model(), "--text", model() + "/stories.txt", "--protocol",
                                "llama.cpp", "--precision", "f32", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  // What llama.cpp v0.5.0 gives for the same weights in a GGUF F32 file (tests/gguf_parity).
  EXPECT_NEAR(Json::parse(result.out)["perplexity"].get<double>(), 55.7377, 0.0056);
}

TEST_F(Perplexity, BadInputIsNamed) {
  EXPECT_EQ(nfloat({"perplexity", model()}).exit_code, 2);
  expect_complaint(nfloat({"perplexity", model(), "--text", path("absent.txt")}), {"absent.txt"});
  write_file(path("short.txt"), "one");
  expect_complaint(nfloat({"perplexity", model(), "--text", path("short.txt")}), {"window"});
  write_file(path("ids.json"), R"({"token_ids": [[1, 2, 4096]]})");
  expect_complaint(nfloat({"perplexity", model(), "--tokens", path("ids.json")}),
                   {"ids.json", "[0][2]", "4096"});
  write_file(path("ids.json"), "{");
  expect_complaint(nfloat({"perplexity", model(), "--tokens", path("ids.json")}), {"ids.json", "JSON"});
}

TEST_F(Generate, BenchMeasuresTheEmbeddedModel) {
  const Result result = nfloat({"bench", model(), "--prefill", "16", "--generate", "4", "--repetitions", "2",
                                "--quantize", "nf4", "--no-limit", "--json"});
  ASSERT_TRUE(result.ok()) << result;
  const Json json = Json::parse(result.out);
  ASSERT_EQ(json["results"].size(), 2u);
  EXPECT_GT(json["results"][1]["threads"].get<int>(), 0);
  EXPECT_GT(json["results"][1]["tokens_per_second"].get<double>(), 0);
  EXPECT_EQ(json["parameters"], 5770496);
}

}  // namespace
}  // namespace nfloat::cli_test
