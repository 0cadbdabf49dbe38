// SPDX-License-Identifier: Apache-2.0
// Outputs whose names lead to something that the same run reads or writes: refused before anything is
// written, by every command that has outputs.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <filesystem>

#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class Apart : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    fs::copy(Cli::model(), path("model"), fs::copy_options::recursive);
    write_file(path("text.txt"), read_file(Cli::model() + "/stories.txt").substr(0, 20000));
  }
  // The command fails with these words and leaves every byte as it was.
  void expect_untouched(const std::vector<std::string>& command,
                        const std::vector<std::string>& words) const {
    const auto before = snapshot(folder_);
    expect_complaint(nfloat(command), words);
    EXPECT_TRUE(snapshot(folder_) == before) << ::testing::PrintToString(command);
  }
};

TEST_F(Apart, APictureDoesNotReplaceTheTable) {
  write_file(path("table.json"), nfloat({"codebook", "nf4", "--json"}).out);
  fs::create_symlink("table.json", path("link.svg"));
  for (const char* plot : {"table.json", "./table.json", "link.svg"})
    expect_untouched({"codebook", "--file", path("table.json"), "--plot", path(plot)},
                     {plot, "is the same as --file"});
  EXPECT_TRUE(nfloat({"codebook", "--file", path("table.json"), "--plot", path("own.svg")}).ok());
}

TEST_F(Apart, ACalibrationsTextIsNotReplacedWithItsOutput) {
  ASSERT_TRUE(nfloat({"quantize", path("model"), path("out")}).ok());
  fs::copy_file(path("text.txt"), path("out/text.txt"));
  expect_untouched(
      {"quantize", path("model"), path("out"), "--overwrite", "--calibrate", path("out/text.txt"), "--fast"},
      {"out", "lies around --calibrate", "text.txt"});
}

TEST_F(Apart, UnfinishedShardsAreNoInputOfTheirOutput) {
  ASSERT_TRUE(nfloat({"quantize", path("model"), path("out"), "--part", "1/1"}).ok());
  fs::copy_file(path("model/config.json"), path("out.partial/model/config.json"));
  expect_untouched({"dequantize", path("out.partial/model"), path("out"), "--fresh"},
                   {"out.partial", "lies around"});
}

// The files of a folder may lie elsewhere.
TEST_F(Apart, WhatLinksOfTheInputLeadToStays) {
  fs::create_directories(path("store"));
  fs::rename(path("model/model.safetensors"), path("store/weights.safetensors"));
  fs::create_symlink(path("store/weights.safetensors"), path("model/model.safetensors"));
  expect_untouched({"quantize", path("model"), path("store"), "--overwrite"},
                   {"store", "lies around", "model.safetensors, which is read"});
  expect_untouched({"convert", path("model"), path("store"), "--overwrite", "--type", "f16"},
                   {"store", "lies around"});
}

TEST_F(Apart, ConvertKeepsEverythingThatItReads) {
  const std::string text = path("text.txt");
  const std::vector<std::string> calibrate = {
      "convert", path("model"),          path("out.gguf"), "--type",      "q4_k",           "--calibrate",
      text,      "--calibration-tokens", "1000",           "--overwrite", "--write-imatrix"};
  const auto with = [&](const std::string& imatrix) {
    std::vector<std::string> all = calibrate;
    all.push_back(imatrix);
    return all;
  };
  expect_untouched(with(text), {"text.txt", "is the same as"});
  expect_untouched(with(path("out.gguf")), {"out.gguf", "--write-imatrix", "is the same as"});
  expect_untouched(with(path("model/config.json")), {"config.json", "lies in"});
  write_file(path("notes"), "mine");
  expect_untouched(with(path("notes")), {"notes", "no importance matrix"});
  ASSERT_TRUE(nfloat(with(path("measured.gguf"))).ok());
  const std::vector<std::string> by = {"convert", path("model"), path("measured.gguf"), "--type",
                                       "q4_k",    "--imatrix",   path("measured.gguf"), "--overwrite"};
  expect_untouched(by, {"measured.gguf", "is the same as --imatrix"});
  expect_untouched({"convert", path("model"), path("measured.gguf"), "--overwrite"},
                   {"measured.gguf", "not a GGUF model"});
  // The parts of a file that is read, under the names of the parts to be written.
  ASSERT_TRUE(nfloat({"convert", path("model"), path("p.gguf"), "--part-size", "3MB"}).ok());
  fs::path first;
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().filename().string().starts_with("p-00001-of-")) first = entry.path();
  ASSERT_FALSE(first.empty());
  expect_untouched({"convert", first.string(), path("p.gguf"), "--part-size", "3MB", "--overwrite"},
                   {"p-0000", "is the same as"});
  std::string second = first.string();
  second.replace(second.find("-00001-"), 7, "-00002-");
  expect_untouched({"convert", first.string(), second, "--overwrite"}, {"-00002-", "is the same as"});
}

TEST_F(Apart, AComparisonKeepsWhatItReadsAndWritesEachFileOnce) {
  const auto compare = [&](std::vector<std::string> more) {
    std::vector<std::string> all = {"compare",        path("model"), "--text",
                                    path("text.txt"), "--formats",   "nf4:64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  fs::create_symlink("text.txt", path("link.html"));
  expect_untouched(compare({"--json", path("text.txt")}), {"text.txt", "is the same as"});
  expect_untouched(compare({"--report", path("link.html")}), {"link.html", "is the same as --text"});
  expect_untouched(compare({"--figure", path("model/config.json")}), {"config.json", "--figure", "lies in"});
  expect_untouched(compare({"--json", path("a"), "--report", path("./a")}),
                   {"--report", "is the same as --json"});
  fs::create_directories(path("work"));
  write_file(path("mine"), "mine");
  for (const char* name : {"formats.jsonl", "reference.nfloat", "layers.nfloat"}) {
    const std::string file = path(std::string("work/") + name);
    expect_untouched(compare({"--work", path("work"), "--json", file, "--figure", file}),
                     {name, "is the same as"});
    const auto refused = [&] {
      for (const std::vector<std::string>& fresh : {std::vector<std::string>{}, {"--fresh"}}) {
        std::vector<std::string> more = {"--work", path("work")};
        more.insert(more.end(), fresh.begin(), fresh.end());
        expect_complaint(nfloat(compare(more)), {name, "not of a comparison"});
        EXPECT_TRUE(fs::exists(fs::symlink_status(file))) << name;
      }
    };
    write_file(file, "mine\n");
    refused();
    EXPECT_EQ(read_file(file), "mine\n");
    fs::remove(file);
    fs::create_symlink(path("mine"), file);
    refused();
    fs::remove(file);
    ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
    refused();
    fs::remove(file);
  }
  EXPECT_EQ(read_file(path("mine")), "mine");
}

TEST_F(Apart, DistributionsReplaceNothingThatIsRead) {
  for (const char* cache : {"text.txt", "model/tokenizer.json"})
    expect_untouched({"perplexity", path("model"), "--text", path("text.txt"), "--reference", path("model"),
                      "--reference-cache", path(cache)},
                     {cache});
}

TEST_F(Apart, AConversationReplacesConversationsAlone) {
  write_file(path("notes"), "mine");
  write_file(path("list.json"), "[1]");
  write_file(path("talk.json"), R"({"messages": []})");
  const std::string config = read_file(path("model/config.json"));
  write_file(path("lines"), "/save " + path("model/config.json") + "\n/save " + path("notes") + "\n/save " +
                                path("list.json") + "\n/save " + path("talk.json") + "\n");
  Limits limits;
  limits.standard_input = path("lines");
  const Result result = nfloat({"chat", path("model")}, limits);
  EXPECT_NE(result.err.find("config.json: is not replaced"), std::string::npos) << result;
  EXPECT_NE(result.err.find("notes: is not replaced"), std::string::npos) << result;
  EXPECT_NE(result.err.find("list.json: is not replaced"), std::string::npos) << result;
  EXPECT_EQ(read_file(path("model/config.json")), config);
  EXPECT_EQ(read_file(path("notes")), "mine");
  EXPECT_EQ(read_file(path("list.json")), "[1]");
  EXPECT_NE(result.err.find("Saved to " + path("talk.json")), std::string::npos) << result;
}

// What loses nothing is no fault: new files, earlier pictures and conversations beside the model, a link that
// nobody follows.
TEST_F(Apart, NewFilesMayLieInTheModelsFolder) {
  fs::create_symlink("circle", path("model/circle"));
  fs::create_symlink("nothing", path("model/to_nothing"));
  for (int run = 0; run < 2; ++run) {
    const Result result = nfloat({"compare", path("model"), "--text", path("text.txt"), "--formats", "nf4:64",
                                  "--report", path("model/report.html")});
    EXPECT_TRUE(result.ok()) << result;
  }
  for (int run = 0; run < 2; ++run)  // the second time from what the first one kept
    EXPECT_TRUE(nfloat({"perplexity", path("model"), "--text", path("text.txt"), "--reference", path("model"),
                        "--reference-cache", path("model/kept")})
                    .ok());
  const std::string talk = path("model/talk.json"), name(300, 'x');
  write_file(path("lines"), "/save " + path(name) + "\n/save " + talk + "\n/save " + talk + "\n");
  Limits limits;
  limits.standard_input = path("lines");
  const Result result = nfloat({"chat", path("model")}, limits);
  // A name that cannot be looked at does not end the conversation.
  EXPECT_NE(result.err.find("Saved to " + talk + ".\nSaved to " + talk), std::string::npos) << result;
  EXPECT_NE(result.err.find("1 of the lines could not be answered"), std::string::npos) << result;
}

TEST_F(Apart, AnEmptyValueIsNoValue) {
  const std::vector<std::vector<std::string>> commands = {
      {"quantize", path("model"), path("out"), "--part", ""},
      {"quantize", path("model"), path("out"), "--calibrate", ""},
      {"quantize", path("model"), ""},
      {"convert", path("model"), path("out"), "--lora", ""},
      {"compare", path("model"), "--json", ""},
      {"inspect", ""},
      {"plan", path("model"), "--memory", ""},
      {"compare", path("model"), "--formats", ""}};
  for (const std::vector<std::string>& command : commands) {
    const Result result = nfloat(command);
    EXPECT_EQ(result.exit_code, 2) << result;
    EXPECT_NE(result.err.find("must not be empty"), std::string::npos) << result;
  }
  EXPECT_TRUE(nfloat({"tokenize", path("model"), "-p", ""}).ok());
  EXPECT_FALSE(fs::exists(path("out")));
}

}  // namespace
}  // namespace nfloat::cli_test
