// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <thread>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/output_place.h"
#include "nfloat/error.h"
#include "nfloat/files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  static std::string read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {})); }
  fs::path folder_;
};

TEST_F(Files, AppearWholeOrNotAtAll) {
  const fs::path path = folder_ / "out.bin";
  write_file_atomically(path.string(), "old");
  {
    AtomicFile file(path.string());
    file.append(std::string_view("half"));
    EXPECT_EQ(read(path), "old");
    EXPECT_EQ(entries(), 2u);
  }  // destroyed before commit: nothing left behind
  EXPECT_EQ(read(path), "old");
  EXPECT_EQ(entries(), 1u);
  AtomicFile file(path.string());
  file.write_at(4, std::as_bytes(std::span("tail", 4)));
  file.write_at(0, std::as_bytes(std::span("head", 4)));
  file.commit();
  EXPECT_EQ(read(path), "headtail");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, StaleTemporariesGoLivingOnesStay) {
  const fs::path target = folder_ / "model.safetensors";
  std::ofstream(folder_ / ".model.safetensors.nfloat-1.tmp") << "left by a killed run";
  fs::create_directories(folder_ / ".model.safetensors.nfloat-2.tmp" / "inside");
  std::ofstream(folder_ / ".other.nfloat-3.tmp") << "another target's";
  std::ofstream(folder_ / "model.safetensors.tmp") << "the user's own";
  AtomicFile living(target.string());
  remove_stale_temporaries(target.string());
  EXPECT_TRUE(fs::exists(living.temporary_path()));
  EXPECT_EQ(entries(), 3u);
  // The next file of that name does so by itself.
  std::ofstream(folder_ / ".model.safetensors.nfloat-4.tmp") << "left by a killed run";
  { const AtomicFile next(target.string()); }
  EXPECT_EQ(entries(), 3u);
  EXPECT_TRUE(fs::exists(living.temporary_path()));
  living.append(std::string_view("x"));
  living.commit();
  EXPECT_EQ(read(target), "x");
}

TEST_F(Files, OfOneNameCanBeMadeAtOnce) {
  // Making one removes what dead runs left: not what another is about to give its name.
  const std::string target = (folder_ / "target").string();
  std::vector<std::string> faults(4);
  std::vector<std::thread> threads;
  for (std::string& fault : faults)
    threads.emplace_back([&] {
      try {
        for (int i = 0; i < 300; ++i) write_file_atomically(target, "whole");
      } catch (const Error& error) {
        fault = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(faults, std::vector<std::string>(4));
  EXPECT_EQ(fs::file_size(target), 5U);
}

TEST_F(Files, FoldersAppearWholeAndReplaceInOneStep) {
  const fs::path target = folder_ / "out";
  {
    AtomicFolder folder(target.string());
    std::ofstream(fs::path(folder.path()) / "a") << "half";
  }
  EXPECT_EQ(entries(), 0u);
  for (const char* text : {"first", "second"}) {
    AtomicFolder folder(target.string());
    std::ofstream(fs::path(folder.path()) / "a") << text;
    folder.commit();
    EXPECT_EQ(read(target / "a"), text);
    EXPECT_EQ(entries(), 1u);
  }
}

TEST_F(Files, WhatAppearedDuringTheRunIsKeptOnDemand) {
  const fs::path path = folder_ / "out", made = folder_ / "folder";
  AtomicFile file(path.string());
  file.append(std::string_view("ours"));
  AtomicFolder folder(made.string());
  std::ofstream(path) << "theirs";
  fs::create_directories(made);
  std::ofstream(made / "theirs") << "x";
  const auto code_of = [](const auto& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInvalidArgument;
  };
  EXPECT_EQ(code_of([&] { file.commit(Existing::kKeep); }), ErrorCode::kAlreadyExists);
  EXPECT_EQ(code_of([&] { folder.commit(Existing::kKeep); }), ErrorCode::kAlreadyExists);
  EXPECT_EQ(read(path), "theirs");
  EXPECT_TRUE(fs::exists(made / "theirs"));
}

TEST_F(Files, AFolderThatMayNotBeReplacedIsAskedForOnceMore) {
  const fs::path target = folder_ / "out";
  fs::create_directories(target);
  std::ofstream(target / "letters.txt") << "the user's own";
  int asked = 0;
  {
    AtomicFolder folder(target.string());
    EXPECT_THROW(folder.commit(Existing::kReplace,
                               [&](const std::string&) {
                                 if (++asked == 2)
                                   throw Error(ErrorCode::kAlreadyExists, "changed in between");
                               }),
                 Error);
  }
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(read(target / "letters.txt"), "the user's own");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, UnfinishedOutputsCanBeRemovedAtOnce) {
  AtomicFile file((folder_ / "file").string());
  AtomicFolder folder((folder_ / "folder").string());
  fs::create_directories(fs::path(folder.path()) / "sub" / "subsub");
  std::ofstream(fs::path(folder.path()) / "sub" / "subsub" / "x") << "x";
  AtomicFile inside((fs::path(folder.path()) / "model").string());
  remove_unfinished_outputs();
  EXPECT_EQ(entries(), 0u);
}

TEST_F(Files, AddressesOfMappedFilesHaveTheirPath) {
  const fs::path path = folder_ / "mapped";
  write_file_atomically(path.string(), std::string(10'000, 'x'));
  const std::byte* address = nullptr;
  {
    const MappedFile file(path.string());
    address = file.bytes().data();
    ASSERT_NE(mapped_file_at(address + 9'999), nullptr);
    EXPECT_EQ(mapped_file_at(address + 9'999), path.string());
    EXPECT_EQ(mapped_file_at(address - 1), nullptr);
  }
  EXPECT_EQ(mapped_file_at(address), nullptr);
}

TEST_F(Files, MappedFileSurvivesReleaseAndNamesWhatItCannotOpen) {
  const fs::path path = folder_ / "mapped";
  std::string text(100'000, 'x');
  text[50'000] = 'y';
  write_file_atomically(path.string(), text);
  MappedFile file(path.string());
  ASSERT_EQ(file.bytes().size(), text.size());
  file.release(file.bytes());
  EXPECT_EQ(static_cast<char>(file.bytes()[50'000]), 'y');
  MappedFile moved(std::move(file));
  EXPECT_EQ(static_cast<char>(moved.bytes()[50'000]), 'y');
  try {
    MappedFile missing((folder_ / "missing").string());
    FAIL() << "opened a file that is not there";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_NE(std::string(error.what()).find("missing"), std::string::npos);
  }
  EXPECT_THROW(MappedFile(folder_.string()), Error);
}

TEST_F(Files, TemporaryNamesTellWhatTheyAreFor) {
  std::string name;
  for (const std::string target : {"a.b.nfloat-1", "a.b"}) {
    const AtomicFile file((folder_ / target).string());
    name = fs::path(file.temporary_path()).filename().string();
    EXPECT_EQ(target_of_temporary(name), target) << name;
  }
  for (const std::string& other : {std::string(), std::string("a.b"), name.substr(1), name + "x",
                                   std::string(".nfloat-1-2.tmp"), std::string(".a.tmp")})
    EXPECT_EQ(target_of_temporary(other), "") << other;
}

TEST_F(Files, OutputsLieApartFromInputsAndFromOneAnother) {
  const auto at = [&](const std::string& name) { return (folder_ / name).string(); };
  fs::create_directories(folder_ / "model");
  for (const char* name : {"data", "elsewhere", "other", "model/config.json"})
    std::ofstream(at(name)) << name;
  fs::create_symlink("data", folder_ / "link");
  fs::create_symlink("nothing", folder_ / "to_nothing");
  fs::create_symlink("../elsewhere", folder_ / "model/weights");
  fs::create_symlink("circle", folder_ / "model/circle");
  fs::create_hard_link(folder_ / "data", folder_ / "twin");
  const std::vector<NamedPath> inputs{{at("data"), "DATA"}, {at("model"), "MODEL"}};
  const auto refused = [&](const std::vector<NamedPath>& outputs) -> std::string {
    try {
      expect_outputs_apart(outputs, inputs);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refused({{at("new"), "--log"}, {at("other"), "--report"}, {at("model2/new"), "--x"}}), "");
  for (const char* name : {"data", "link", "twin", "model/../data"}) {
    const std::string why = refused({{at(name), "--log"}});
    for (const char* word : {"--log ", "is the same as DATA ", "which is read"})
      EXPECT_NE(why.find(word), std::string::npos) << name << ": " << why;
  }
  // Of a folder that is read the files are; new ones, pictures and sub-folders lose nothing.
  fs::create_directories(folder_ / "model/sub");
  for (const char* name : {"model/report.html", "model/sub/log.json"}) std::ofstream(at(name)) << name;
  EXPECT_NE(refused({{at("model/config.json"), "--log"}}).find("lies in MODEL"), std::string::npos);
  for (const char* name : {"model/new", "model/report.html", "model/sub/log.json", "model/sub/new"})
    EXPECT_EQ(refused({{at(name), "--log"}}), "");
  EXPECT_THROW(expect_outputs_apart({{at(std::string(300, 'x')), "--log"}}, inputs), Error);
  // A checkpoint goes nowhere into it.
  EXPECT_THROW(expect_checkpoint_apart(at("model/new"), inputs), Error);
  EXPECT_THROW(expect_checkpoint_apart(at("model/sub/new"), inputs), Error);
  EXPECT_NO_THROW(expect_checkpoint_apart(at("new"), inputs));
  EXPECT_NE(refused({{at("elsewhere"), "--log"}}).find("the same as MODEL " + at("model/weights")),
            std::string::npos);
  EXPECT_NE(refused({{folder_.string(), "--out"}}).find("lies around DATA"), std::string::npos);
  EXPECT_NE(refused({{at("nothing"), "--log"}, {at("to_nothing"), "--report"}}).find("the same as --log"),
            std::string::npos);
  EXPECT_NE(refused({{at("new/"), "--out"}, {at("new/log"), "--log"}}).find("lies in --out"),
            std::string::npos);
  EXPECT_EQ(refused({{"/dev/null", "--log"}, {"/dev/null", "--report"}}), "");
}

}  // namespace
}  // namespace nfloat
