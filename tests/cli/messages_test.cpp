// SPDX-License-Identifier: Apache-2.0
// What is said: safe for a terminal, on one line, short, with a way on; where streams are full or closed too.
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/json.h"
#include "cli/checkpoint_maker.h"
#include "cli/process.h"
#include "cli/terminal.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class Messages : public Cli {};

bool holds_control(const std::string& text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n'; });
}

TEST_F(Messages, WhatIsQuotedIsEscapedAndOnOneLine) {
  const Result named = nfloat({"plan", path("a\x1b[31m\nb\xff\u202e")});
  expect_complaint(named, {"a\\x1b[31m\\nb\\xff\\u{202e}"});
  EXPECT_FALSE(holds_control(named.err));
  const Result kept = nfloat({"plan", path("größe-日本")});
  expect_complaint(kept, {"größe-日本"});
}

TEST_F(Messages, ErrorsThatAreTooLargeToMeasureAreNoNumbers) {
  const double values[] = {1e200, -1e200, 1, 0};
  const std::string data(reinterpret_cast<const char*>(values), sizeof values);
  for (const char* name : {"a", "b"})
    write_file(path(name + std::string(".safetensors")),
               safetensors_bytes("{" + entry("weight", "F64", {2, 2}, 0, 32) + "}", data));
  const Result result = nfloat({"inspect", path("a.safetensors"), "--against", path("b.safetensors")});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("too large"), std::string::npos) << result;
  EXPECT_EQ(result.out.find("nan"), std::string::npos) << result;
}

TEST_F(Messages, LongOnesLoseTheirMiddle) {
  const Result result = nfloat({"plan", std::string(100'000, 'x') + "end"});
  expect_complaint(result, {"nfloat: xxx", " ... ", "end"});
  EXPECT_LE(result.err.size(), 1024u);
}

TEST_F(Messages, NamesOfTensorsAreEscapedInTables) {
  const std::string data(64, '\0');
  write_file(path("m.safetensors"),
             safetensors_bytes(
                 "{" + entry(R"(layer.\u001b]0;title\u0007.weight)", "F32", {4, 4}, 0, 64) + "}", data));
  const Result result = nfloat({"inspect", path("m.safetensors"), "--all"});
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_FALSE(holds_control(result.out)) << result;
  EXPECT_NE(result.out.find("layer.\\x1b]0;title\\x07.weight"), std::string::npos) << result;
}

TEST_F(Messages, TablesFitTheTerminal) {
  Terminal terminal(
      {"codebook", "nf4", "fp4", "--errors", "--block-sizes", "32,64,128", "--distribution", "student-t:7"});
  ASSERT_EQ(terminal.exit_status(), 0);
  std::istringstream lines(terminal.wait_for("128"));
  for (std::string line; std::getline(lines, line);) {
    const auto columns =
        std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80 && c != '\r'; });
    EXPECT_LE(columns, 80) << line;
  }
}

TEST_F(Messages, FullAndClosedStreamsAreTold) {
  Limits full;
  full.standard_output = "/dev/full";
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"--help"}, {"quantize", "--help"}, {"help"}, {"version"}, {"--version"}}) {
    const Result result = nfloat(command, full);
    EXPECT_EQ(result.exit_code, 1) << command[0] << result;
    EXPECT_NE(result.err.find("standard output: "), std::string::npos) << command[0] << result;
  }
}

TEST_F(Messages, MisspeltNamesAreGuessed) {
  struct Case {
    std::vector<std::string> command;
    std::string guess;
  };
  const Case cases[] = {{{"quantise"}, "\"quantize\"?"},
                        {{"perplexty", "x"}, "\"perplexity\"?"},
                        {{"dequantize", "--overwrit", "a", "b"}, "\"--overwrite\"?"},
                        {{"help", "tokenise"}, "\"tokenize\"?"}};
  for (const Case& one : cases) {
    const Result result = nfloat(one.command);
    EXPECT_EQ(result.exit_code, 2) << result;
    EXPECT_NE(result.err.find("did you mean " + one.guess), std::string::npos) << result;
  }
  EXPECT_EQ(nfloat({"something-else"}).err.find("did you mean"), std::string::npos);
}

TEST_F(Messages, ABareNumberOfBytesIsAQuestion) {
  for (const char* number : {"24", "7.5", "999999"}) {
    const Result result = nfloat({"plan", model(), "--memory", number});
    EXPECT_EQ(result.exit_code, 2) << result;
    EXPECT_NE(result.err.find(std::string("or ") + number + "GB?"), std::string::npos) << result;
  }
  EXPECT_TRUE(nfloat({"plan", model(), "--memory", "24B"}).ok());
  EXPECT_TRUE(nfloat({"plan", model(), "--memory", "2000000000"}).ok());
}

TEST_F(Messages, FilesThatAreNoModelAreTold) {
  write_file(path("notes.txt"), "# Notes\n");
  write_file(path("alone.safetensors"), plain_file(16, 64));
  write_file(path("text"), "Once upon a time");
  for (const std::string command : {"generate", "perplexity"}) {
    const std::string option = command == "generate" ? "--prompt" : "--text";
    expect_complaint(nfloat({command, path("notes.txt"), option, path("text")}),
                     {"notes.txt", "not a model"});
    expect_complaint(nfloat({command, path("alone.safetensors"), option, path("text")}),
                     {"alone.safetensors", "give the folder"});
  }
}

TEST_F(Messages, FilesThatWereNotDownloadedAreTold) {
  std::filesystem::create_directories(path("m"));
  write_file(path("m/model.safetensors"), plain_file(16, 64));
  const std::pair<std::string, std::string> texts[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"},
      {"<!DOCTYPE html><html></html>", "web page"}};
  for (const auto& [text, name] : texts) {
    write_file(path("m/config.json"), text);
    for (const std::string command : {"quantize", "convert"})
      expect_complaint(nfloat({command, path("m"), path("out")}), {"config.json", name});
    expect_complaint(nfloat({"plan", path("m")}), {"config.json", name});
  }
  write_file(path("m/config.json"), "{}");
  write_file(path("m/model.safetensors"), "GGUF" + std::string(60, '\0'));
  expect_complaint(nfloat({"inspect", path("m")}), {"model.safetensors", ".gguf"});
}

TEST_F(Messages, HelpAndVersionAreCommandsToo) {
  EXPECT_EQ(nfloat({"help", "quantize"}).out, nfloat({"quantize", "--help"}).out);
  EXPECT_EQ(nfloat({"help"}).out, nfloat({"--help"}).out);
  const Json version = Json::parse(nfloat({"version", "--json"}).out);
  for (const char* key : {"version", "commit", "compiler", "target"})
    EXPECT_FALSE(version.at(key).get<std::string>().empty()) << key;
  EXPECT_NE(nfloat({"version"}).out.find(version.at("target").get<std::string>()), std::string::npos);
}

TEST_F(Messages, AnInstructionSetThatIsNotThereIsTold) {
  Limits limits;
  limits.environment["NFLOAT_TARGET"] = "mmx";
  const Result result = nfloat({"codebook"}, limits);
  EXPECT_EQ(result.exit_code, 2) << result;
  EXPECT_NE(result.err.find("NFLOAT_TARGET"), std::string::npos) << result;
  EXPECT_NE(result.err.find("scalar"), std::string::npos) << result;
}

TEST_F(Messages, WhatWasWrittenIsSaidUnlessQuiet) {
  const Result said = nfloat({"codebook", "nf4", "--plot", path("p.svg")});
  EXPECT_NE(said.err.find("p.svg: written"), std::string::npos) << said;
  const Result quiet = nfloat({"codebook", "nf4", "--plot", path("p.svg"), "--quiet"});
  EXPECT_TRUE(quiet.ok());
  EXPECT_EQ(quiet.err, "");
  EXPECT_EQ(quiet.out, said.out);
  for (const char* command : {"quantize", "plan", "inspect", "compare", "analyze", "evaluate", "cache"})
    EXPECT_NE(nfloat({command, "--help"}).out.find("--quiet"), std::string::npos) << command;
}

TEST_F(Messages, OneThingIsNotSeveral) {
  write_file(path("one.safetensors"),
             safetensors_bytes("{" + entry("w", "F32", {1, 1}, 0, 4) + "}", std::string(4, '\0')));
  const Result listed = nfloat({"inspect", path("one.safetensors")});
  EXPECT_NE(listed.out.find("1 parameter "), std::string::npos) << listed;
  fs::copy(model(), path("model"), fs::copy_options::recursive);
  std::string weights = read_file(path("model/model.safetensors"));
  const std::string norm = "model.norm.weight";
  weights.replace(weights.find(norm), norm.size(), "model.nrom.weight");
  write_file(path("model/model.safetensors"), weights);
  expect_complaint(nfloat({"generate", path("model"), "-p", "x", "-n", "1"}),
                   {"1 tensor that the configuration", "is missing: model.norm.weight"});
  const Result said = nfloat({"generate", model(), "-p", "x", "-n", "1", "--temperature", "0"});
  EXPECT_NE(said.err.find("generated 1 token,"), std::string::npos) << said;
}

// A GGUF file has no config.json: what is wrong is said of the file, under its own names.
TEST_F(Messages, FaultsOfGgufMetadataNameItsKeys) {
  ASSERT_TRUE(nfloat({"convert", model(), path("m.gguf")}).ok());
  const std::string whole = read_file(path("m.gguf"));
  struct Fault {
    const char* key;
    uint32_t value;
  };
  const float negative = -4;
  uint32_t bits;
  std::memcpy(&bits, &negative, 4);
  for (const Fault& fault : {Fault{"llama.block_count", 100000}, Fault{"llama.embedding_length", ~0u},
                             Fault{"llama.context_length", ~0u}, Fault{"llama.rope.freq_base", bits},
                             Fault{"llama.attention.layer_norm_rms_epsilon", bits}}) {
    const std::string key = fault.key;
    std::string bytes = whole;
    // Behind the key its type, then the value.
    std::memcpy(bytes.data() + bytes.find(key) + key.size() + 4, &fault.value, 4);
    write_file(path("bad.gguf"), bytes);
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"generate", path("bad.gguf"), "-p", "x"},
          {"convert", path("bad.gguf"), path("out")},
          {"inspect", path("bad.gguf"), "--check", "--json"}}) {
      const Result result = nfloat(command);
      expect_complaint(result, {"bad.gguf: metadata \"" + key + "\" is "});
      EXPECT_EQ(result.err.find("config.json"), std::string::npos) << result;
    }
    EXPECT_FALSE(fs::exists(path("out")));
  }
}

TEST_F(Messages, WhatMayNotBeReadIsSaidSo) {
  fs::copy(model(), path("model"), fs::copy_options::recursive);
  fs::create_directories(path("adapter"));
  for (const char* name : {"text", "adapter/adapter_config.json"}) {
    write_file(path(name), "{}");
    fs::permissions(path(name), fs::perms::none);
  }
  fs::permissions(folder_, fs::perms::all);
  Limits limits;
  limits.as_nobody = ::geteuid() == 0;
  const auto complains = [&](const std::vector<std::string>& command, const std::string& name) {
    expect_complaint(nfloat(command, limits), {name, "Permission denied"});
  };
  if (nfloat({"version"}, limits).exit_code == 127)
    GTEST_SKIP() << "an unprivileged user cannot run the build folder's programs here";
  complains({"tokenize", path("model"), "--file", path("text")}, "text");
  complains({"generate", path("model"), "-p", "x", "--lora", path("adapter")}, "adapter_config.json");
  complains({"convert", path("model"), path("out"), "--lora", path("adapter")}, "adapter_config.json");
  fs::permissions(path("model"), fs::perms::none);
  complains({"tokenize", path("model"), "-p", "x"}, "model");
  complains({"generate", path("model"), "-p", "x"}, "model");
  fs::permissions(path("model"), fs::perms::all);
}

TEST_F(Messages, MetadataOfGgufFilesKeepsItsLetters) {
  fs::copy(model(), path("größe"), fs::copy_options::recursive);
  ASSERT_TRUE(nfloat({"convert", path("größe"), path("m.gguf"), "--type", "f16"}).ok());
  const Result result = nfloat({"inspect", path("m.gguf")});
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("\"größe\""), std::string::npos) << result;
}

}  // namespace
}  // namespace nfloat::cli_test
