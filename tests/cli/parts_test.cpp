// SPDX-License-Identifier: Apache-2.0
// A conversion in parts, and one that goes on where another was killed: the bytes of one process that was
// not.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/checkpoint_maker.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class Parts : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    fs::copy(Cli::model(), path("model"), fs::copy_options::recursive);
    ASSERT_TRUE(quantize("reference").ok());
    whole_ = snapshot(path("reference"));
    for (const auto& [name, bytes] : whole_) shards_ += name.ends_with(".safetensors");
    ASSERT_GE(shards_, 8);
  }

  std::vector<std::string> command(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> result = {"quantize",     path("model"), path(out),
                                       "--shard-size", "400kB",       "--json"};
    result.insert(result.end(), more.begin(), more.end());
    return result;
  }
  Result quantize(const std::string& out, const std::vector<std::string>& more = {},
                  Limits limits = {}) const {
    return nfloat(command(out, more), limits);
  }
  int finished(const std::string& out) const {
    int count = 0;
    if (fs::exists(path(out + ".partial/model")))
      for (const auto& entry : fs::directory_iterator(path(out + ".partial/model")))
        count += entry.path().filename().string().starts_with("model-");
    return count;
  }
  std::map<std::string, std::string> whole_;
  int shards_ = 0;
};

TEST_F(Parts, TogetherGiveTheBytesOfOneProcess) {
  for (const int parts : {1, 2, 4, shards_ + 3}) {
    const std::string out = "out" + std::to_string(parts);
    for (int part = parts; part >= 1; --part) {
      const Result result = quantize(out, {"--part", std::to_string(part) + "/" + std::to_string(parts)});
      ASSERT_TRUE(result.ok()) << result;
      EXPECT_FALSE(fs::exists(path(out)));
      EXPECT_NE(result.out.find("\"whole\": false"), std::string::npos) << result;
      if (part == 2) expect_complaint(quantize(out, {"--finish"}), {"are missing", "out", ".partial"});
    }
    EXPECT_EQ(finished(out), shards_);
    const Result result = quantize(out, {"--finish"});
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_TRUE(snapshot(path(out)) == whole_) << parts;
    EXPECT_FALSE(fs::exists(path(out + ".partial")));
  }
}

TEST_F(Parts, AtTheSameTimeDoNotDisturbEachOther) {
  std::vector<pid_t> runs;
  for (const char* part : {"1/3", "2/3", "3/3"}) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      const Result result = quantize("out", {"--part", part});
      if (!result.ok()) std::cerr << result;
      ::_exit(result.exit_code);
    }
    runs.push_back(pid);
  }
  for (const pid_t pid : runs) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  ASSERT_TRUE(quantize("out", {"--finish"}).ok());
  EXPECT_TRUE(snapshot(path("out")) == whole_);
}

Json header_of(const std::string& file) {
  const std::string bytes = read_file(file);
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<uint8_t>(bytes.at(i));
  Json header = Json::parse(bytes.substr(8, length));
  header["data"] = 8 + length;
  return header;
}

// convert into a folder, of weights that are rounded: bytes and measures of a run that was not cut.
TEST_F(Parts, ConvertGoesOnAndTellsOfAllTensors) {
  const auto convert = [&](const std::string& out, const std::vector<std::string>& more,
                           const std::string& type = "f16") {
    std::vector<std::string> command = {"convert", path("reference"), path(out),     "--type",
                                        type,      "--json",          "--part-size", "400kB"};
    command.insert(command.end(), more.begin(), more.end());
    return nfloat(command);
  };
  const auto tensors = [](const Result& result) { return Json::parse(result.out)["tensors"]; };
  const Result straight = convert("straight", {});
  ASSERT_TRUE(straight.ok()) << straight;
  for (const char* part : {"1/3", "2/3"}) {
    const Result result = convert("out", {"--part", part});
    ASSERT_TRUE(result.ok()) << result;
    EXPECT_FALSE(fs::exists(path("out")));
  }
  expect_complaint(convert("out", {"--finish"}), {"are missing", "out", ".partial"});
  expect_complaint(convert("out", {}, "bf16"), {"another conversion", "type F16 there, BF16 here"});
  const Result result = convert("out", {"--check"});
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_TRUE(snapshot(path("out")) == snapshot(path("straight")));
  EXPECT_EQ(tensors(result), tensors(straight));
  for (const char* part : {"1/2", "2/2"}) ASSERT_TRUE(convert("two", {"--part", part}).ok());
  const Result finished = convert("two", {"--finish"});
  ASSERT_TRUE(finished.ok()) << finished;
  EXPECT_TRUE(snapshot(path("two")) == snapshot(path("straight")));
  EXPECT_EQ(tensors(finished), tensors(straight));
  EXPECT_EQ(nfloat({"convert", path("reference"), path("x.gguf"), "--part", "1/2"}).exit_code, 2);
}

// Weights that a finished shard was made of become NaN behind the run's back, where no sample of the
// fingerprint looks: whoever read them again would stop there.
TEST_F(Parts, FinishedShardsAreNotReadAgain) {
  ASSERT_TRUE(quantize("out", {"--part", "1/2"}).ok());
  const std::string input = path("model/model.safetensors"), end = ".absmax";
  const Json header = header_of(input);
  const uint64_t size = fs::file_size(input), step = (size - 4096) / 256;
  uint64_t at = 0;
  for (const auto& entry : fs::directory_iterator(path("out.partial/model"))) {
    const Json finished = header_of(entry.path().string());
    for (const auto& [name, unused] : finished.items()) {
      if (at != 0 || !name.ends_with(end)) continue;
      const Json& place = header[name.substr(0, name.size() - end.size())]["data_offsets"];
      const uint64_t begin = header["data"].get<uint64_t>() + place[0].get<uint64_t>();
      const uint64_t behind = header["data"].get<uint64_t>() + place[1].get<uint64_t>();
      for (uint64_t i = begin; i + 8 < behind && at == 0; ++i)
        if (i % step > 4200 && i % step + 100 < step) at = i;  // between two samples
    }
  }
  ASSERT_NE(at, 0u);
  struct stat before {};
  ASSERT_EQ(::stat(input.c_str(), &before), 0);
  {
    std::fstream file(input, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << std::string(8, '\xff');
  }
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, input.c_str(), times, 0), 0);
  expect_complaint(quantize("other"), {"NaN"});  // what a run finds that reads everything
  const Result result = quantize("out");
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_EQ(result.out.find("\"shards_before\": 0,"), std::string::npos) << result;
  EXPECT_TRUE(snapshot(path("out")) == whole_);
}

TEST_F(Parts, AnotherConversionIsRefusedByNameOrBegunAfresh) {
  ASSERT_TRUE(quantize("out", {"--part", "1/3"}).ok());
  expect_complaint(quantize("out", {"--block-size", "128"}),
                   {"out.partial", "another conversion", "block size 64 there, 128 here", "--fresh"});
  expect_complaint(quantize("out", {"--block-size", "128", "--part", "2/3"}), {"block size 64 there"});
  expect_complaint(quantize("out", {"--skip", "down_proj"}), {"skip none there, down_proj here"});
  const Result result = quantize("out", {"--block-size", "128", "--fresh"});
  ASSERT_TRUE(result.ok()) << result;
  ASSERT_TRUE(quantize("straight", {"--block-size", "128"}).ok());
  EXPECT_TRUE(snapshot(path("out")) == snapshot(path("straight")));
  EXPECT_FALSE(fs::exists(path("out.partial")));
}

TEST_F(Parts, AChangedInputIsRefused) {
  ASSERT_TRUE(quantize("out", {"--part", "1/3"}).ok());
  const std::string input = [&] {
    for (const auto& entry : fs::directory_iterator(path("model")))
      if (entry.path().extension() == ".safetensors") return entry.path().string();
    return std::string();
  }();
  // Changed where no sample looks, but later.
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  ASSERT_EQ(::utimensat(AT_FDCWD, input.c_str(), times, 0), 0);
  expect_complaint(quantize("out"), {fs::path(input).filename().string(), "was changed", "--fresh"});
  std::string bytes = read_file(input);
  bytes[bytes.size() - 1] = static_cast<char>(bytes[bytes.size() - 1] ^ 1);
  write_file(input, bytes);
  expect_complaint(quantize("out", {"--part", "2/3"}), {"another conversion", "input "});
}

TEST_F(Parts, WhatIsNotOursStays) {
  fs::create_directories(path("out.partial/model"));
  write_file(path("out.partial/model/notes"), "mine");
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{}, {"--fresh"}, {"--part", "1/2"}, {"--finish"}})
    expect_complaint(quantize("out", more), {"out.partial", "not of a conversion"});
  EXPECT_EQ(read_file(path("out.partial/model/notes")), "mine");
}

// Names in OUT.partial/model that lead elsewhere, or are the user's own: refused, whatever was asked for.
TEST_F(Parts, LinksPipesAndOthersFilesInTheFolderAreNamedAndStay) {
  const std::string folder = path("out.partial"),
                    shard = "model-00002-of-0000" + std::to_string(shards_) + ".safetensors";
  ASSERT_LT(shards_, 10);
  const std::vector<std::vector<std::string>> ways = {{}, {"--fresh"}, {"--finish"}};
  const auto begin = [&] {
    fs::remove_all(folder);
    ASSERT_TRUE(quantize("out", {"--part", "1/2"}).ok());
  };
  const auto expect_refusal = [&](const std::string& name, const std::string& why) {
    for (const std::vector<std::string>& more : ways) {
      expect_complaint(quantize("out", more), {folder + "/" + name, why});
      EXPECT_TRUE(fs::exists(fs::symlink_status(folder + "/" + name))) << name;
      EXPECT_FALSE(fs::exists(fs::symlink_status(path("out")))) << name;
    }
    expect_complaint(quantize("out", {"--part", "2/2"}), {folder + "/" + name, why});
  };
  write_file(path("keepme"), "mine");
  begin();
  fs::create_symlink(path("keepme"), folder + "/model/" + shard);
  expect_refusal("model/" + shard, "a link");
  begin();
  ASSERT_EQ(::mkfifo((folder + "/model/" + shard).c_str(), 0600), 0);
  expect_refusal("model/" + shard, "neither a file nor a folder");
  for (const char* mine : {"notes", "model/notes", "model/model-00001-of-00099.txt"}) {
    begin();
    write_file(folder + "/" + mine, "mine");
    expect_refusal(mine, "not of this conversion");
    EXPECT_EQ(read_file(folder + "/" + mine), "mine");
  }
  begin();
  fs::rename(folder + "/model", path("elsewhere"));
  fs::create_directory_symlink(path("elsewhere"), folder + "/model");
  expect_refusal("model", "a link");
  begin();
  fs::rename(folder + "/conversion", path("key"));
  fs::create_symlink(path("key"), folder + "/conversion");
  expect_refusal("conversion", "a link");
  fs::remove(folder + "/conversion");
  ASSERT_EQ(::mkfifo((folder + "/conversion").c_str(), 0600), 0);
  expect_complaint(quantize("out"), {folder, "not of a conversion"});
  EXPECT_EQ(read_file(path("keepme")), "mine");
}

// What goes along in sub-folders may be torn too: nothing of it comes into the output.
TEST_F(Parts, TornFilesOfSubFoldersAreMadeAgain) {
  fs::create_directories(path("model/more"));
  write_file(path("model/more/file"), "whole");
  ASSERT_TRUE(quantize("straight").ok());
  ASSERT_TRUE(quantize("out", {"--part", "1/1"}).ok());
  fs::create_directories(path("out.partial/model/more"));
  write_file(path("out.partial/model/more/.file.nfloat-1-0123456789abcdef.tmp"), "wh");
  write_file(path("out.partial/model/more/file"), "torn");
  ASSERT_TRUE(quantize("out").ok());
  EXPECT_TRUE(snapshot(path("out")) == snapshot(path("straight")));
}

// A bit of a finished shard, anywhere, and what says which bytes it had.
TEST_F(Parts, ADamagedShardIsMadeAgain) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 6; ++trial) {
    ASSERT_TRUE(quantize("out", {"--part", "1/1"}).ok());
    const std::string folder = path("out.partial"),
                      name = "model-00003-of-0000" + std::to_string(shards_) + ".safetensors";
    const std::string damaged = trial < 5 ? folder + "/model/" + name : folder + "/" + name + ".sum";
    std::string bytes = read_file(damaged);
    const size_t at = trial == 0 ? bytes.size() - 1 : random() % bytes.size();
    bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
    write_file(damaged, bytes);
    if (trial < 3) expect_complaint(quantize("out", {"--finish"}), {"missing or damaged", name});
    const Result result = quantize("out");
    ASSERT_TRUE(result.ok()) << result;
    for (const std::string& part :
         {"\"shards_before\": " + std::to_string(shards_ - 1) + ",", std::string("\"shards_damaged\": 1,")})
      EXPECT_NE(result.out.find(part), std::string::npos) << at << result;
    EXPECT_TRUE(snapshot(path("out")) == whole_) << at;
    EXPECT_FALSE(fs::exists(folder));
    fs::remove_all(path("out"));
  }
  // Of a version that kept no checksums.
  ASSERT_TRUE(quantize("out", {"--part", "1/1"}).ok());
  for (const auto& entry : std::vector<fs::directory_entry>(fs::directory_iterator(path("out.partial")), {}))
    if (entry.path().extension() == ".sum") fs::remove(entry.path());
  const Result result = quantize("out");
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.out.find("\"shards_before\": 0,"), std::string::npos) << result;
  EXPECT_TRUE(snapshot(path("out")) == whole_);
}

TEST_F(Parts, OneFileIsNotMadeInParts) {
  write_file(path("in.safetensors"), plain_file(16, 64));
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--finish"}, {"--part", "1/2"}}) {
    std::vector<std::string> command = {"quantize", path("in.safetensors"), path("out.safetensors")};
    command.insert(command.end(), more.begin(), more.end());
    expect_complaint(nfloat(command), {"out.safetensors", "not made in parts"});
  }
}

TEST_F(Parts, DequantizeGoesTheSameWay) {
  const auto dequantize = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> command = {"dequantize", path("reference"), path(out), "--shard-size", "1MB"};
    command.insert(command.end(), more.begin(), more.end());
    return nfloat(command);
  };
  ASSERT_TRUE(dequantize("straight", {}).ok());
  ASSERT_TRUE(dequantize("out", {"--part", "2/2"}).ok());
  expect_complaint(dequantize("out", {"--dtype", "f32"}), {"type BF16 there, F32 here"});
  const Result result = dequantize("out", {});  // makes what is missing
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.err.find("were finished before"), std::string::npos) << result;
  EXPECT_TRUE(snapshot(path("out")) == snapshot(path("straight")));
}

// kill -9 at random moments, and the same command again until it ends: the seed is printed where it fails.
TEST_F(Parts, KilledAtRandomMomentsARunGoesOn) {
  double seconds = quantize("timed").seconds;
  const auto seed = std::random_device{}();
  std::mt19937 random(seed);
  SCOPED_TRACE("seed " + std::to_string(seed));
  int died = 0, went_on = 0;
  // Ten, and more while none died with a finished shard; the moments follow the speed of a busy machine.
  for (int trial = 0; trial < 10 || (went_on == 0 && trial < 100); ++trial) {
    Limits limits;
    limits.signal = SIGKILL;
    limits.after = std::chrono::nanoseconds(
        static_cast<int64_t>(seconds * 1e9 * std::uniform_real_distribution<>(.2, 1)(random)));
    const Result first = quantize("out", {"--threads", "1"}, limits);
    const int before = finished("out");
    died += first.signal == SIGKILL;
    seconds *= first.ok() ? .8 : before == 0 ? 1.3 : 1;
    EXPECT_TRUE(first.ok() || !fs::exists(path("out")) || snapshot(path("out")) == whole_);
    if (!fs::exists(path("out"))) {
      const Result second = quantize("out");
      ASSERT_TRUE(second.ok()) << second;
      EXPECT_NE(second.out.find("\"shards_before\": " + std::to_string(before) + ","), std::string::npos)
          << before << " shards were there" << second;
      went_on += before > 0;
    }
    EXPECT_TRUE(snapshot(path("out")) == whole_) << "trial " << trial;
    // A run that dies right after OUT appeared leaves no shard, and nothing that the next trial minds.
    EXPECT_EQ(finished("out"), 0) << "trial " << trial;
    EXPECT_TRUE(first.signal == SIGKILL || !fs::exists(path("out.partial"))) << "trial " << trial;
    fs::remove_all(path("out"));
  }
  EXPECT_GT(died, 0) << "every run ended before it was killed: this test looked at nothing";
  EXPECT_GT(went_on, 0) << "no run left a finished shard: this test looked at nothing";
}

TEST_F(Parts, AnInputThatWasChangedInBetweenIsRefused) {
  ASSERT_TRUE(quantize("out", {"--part", "1/2"}).ok());
  // Later than the beginning, in a place of the file that no sample need show.
  const fs::path file = path("model/model.safetensors");
  fs::last_write_time(file, fs::file_time_type::clock::now() + std::chrono::seconds(5));
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--part", "2/2"}, {"--finish"}, {}}) {
    const Result result = quantize("out", more);
    EXPECT_EQ(result.exit_code, 1) << result;
    EXPECT_NE(result.err.find("was changed since the run began"), std::string::npos) << result;
  }
  EXPECT_FALSE(fs::exists(path("out")));
}

}  // namespace
}  // namespace nfloat::cli_test
