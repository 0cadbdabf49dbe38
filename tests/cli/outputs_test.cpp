// SPDX-License-Identifier: Apache-2.0
// Outputs whose names lead elsewhere or are taken during the run, and signals that end it.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <future>
#include <thread>

#include "cli/checkpoint_maker.h"
#include "cli/process.h"
#include "support/sanitizer.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class Outputs : public Cli {
 protected:
  Result plot(const std::string& out) const { return nfloat({"codebook", "nf4", "--plot", out}); }
  static bool is_picture(const std::string& text) {
    return text.starts_with("<svg") || text.find("<svg") != std::string::npos;
  }
};

TEST_F(Outputs, APipeIsWrittenIntoAndStaysAPipe) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  auto reader = std::async(std::launch::async, [&] { return read_file(path("pipe")); });
  const Result result = plot(path("pipe"));
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(is_picture(reader.get()));
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
}

TEST_F(Outputs, LinksAreFollowedAndStayLinks) {
  fs::create_directories(path("there"));
  write_file(path("there/old.svg"), "old");
  fs::create_symlink("there/old.svg", path("to-file"));
  fs::create_symlink("there/new.svg", path("to-nothing"));
  fs::create_symlink("to-nothing", path("to-link"));
  for (const char* link : {"to-file", "to-nothing", "to-link"}) {
    const Result result = plot(path(link));
    EXPECT_TRUE(result.ok()) << result;
    EXPECT_TRUE(fs::is_symlink(path(link))) << link;
    EXPECT_TRUE(is_picture(read_file(path(link)))) << link;
  }
  EXPECT_TRUE(is_picture(read_file(path("there/new.svg"))));
  EXPECT_TRUE(temporaries(path("there")).empty());
}

TEST_F(Outputs, ALinkToWhatIsNotThereYetIsFollowed) {
  std::filesystem::create_directories(path("place"));
  std::filesystem::create_symlink("place/new", path("folder"));
  std::filesystem::create_symlink("place/new.gguf", path("model.gguf"));
  ASSERT_TRUE(nfloat({"quantize", model(), path("folder")}).ok());
  ASSERT_TRUE(nfloat({"convert", model(), path("model.gguf")}).ok());
  EXPECT_TRUE(std::filesystem::is_symlink(path("folder")) && std::filesystem::is_symlink(path("model.gguf")));
  EXPECT_TRUE(std::filesystem::exists(path("place/new/config.json")));
  EXPECT_TRUE(std::filesystem::exists(path("place/new.gguf")));
}

// An input that is mapped is a file: a pipe that nobody writes into is not waited for.
TEST_F(Outputs, APipeInPlaceOfAModelIsRefused) {
  std::filesystem::create_directories(path("m"));
  for (const std::string name : {"m/model.safetensors", "m.gguf", "m.safetensors"}) {
    ASSERT_EQ(::mkfifo(path(name).c_str(), 0600), 0);
    expect_complaint(nfloat({"inspect", name.starts_with("m/") ? path("m") : path(name)}),
                     {name, "not a regular file"});
  }
}

TEST_F(Outputs, LinksInACircleAndFoldersAreRefused) {
  fs::create_symlink("b", path("a"));
  fs::create_symlink("a", path("b"));
  expect_complaint(plot(path("a")), {"circle"});
  fs::create_directories(path("folder"));
  expect_complaint(plot(path("folder")), {"is a folder"});
}

TEST_F(Outputs, StandardOutputByNameIsWrittenInto) {
  const Result result = plot("/dev/stdout");
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(is_picture(result.out)) << result;
}

TEST_F(Outputs, PermissionsOfTheFileReplacedStay) {
  write_file(path("private.svg"), "old");
  fs::permissions(path("private.svg"), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_TRUE(plot(path("private.svg")).ok());
  EXPECT_EQ(fs::status(path("private.svg")).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(Outputs, ACheckpointIsNotWrittenIntoAPipe) {
  write_file(path("in.safetensors"), plain_file(16, 64));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"--overwrite"}}) {
    std::vector<std::string> command = {"quantize", path("in.safetensors"), path("pipe")};
    command.insert(command.end(), more.begin(), more.end());
    expect_complaint(nfloat(command), {"pipe", "not a regular file"});
  }
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
}

// In every command, a file only by one of its kind.
TEST_F(Outputs, OverwriteReplacesFilesOfItsKind) {
  write_file(path("in.safetensors"), plain_file(16, 64));
  ASSERT_TRUE(nfloat({"quantize", path("in.safetensors"), path("q.safetensors")}).ok());
  ASSERT_TRUE(nfloat({"convert", model(), path("model.gguf"), "--type", "q8_0"}).ok());
  const std::vector<std::string> commands[] = {
      {"quantize", path("in.safetensors"), path("out"), "--overwrite"},
      {"dequantize", path("q.safetensors"), path("out"), "--overwrite"}};
  for (const std::vector<std::string>& command : commands) {
    for (const std::string& other : {std::string("notes"), read_file(path("model.gguf"))}) {
      write_file(path("out"), other);
      expect_complaint(nfloat(command), {"out", "not a safetensors file"});
      EXPECT_EQ(read_file(path("out")), other);
    }
    // A file that was cut short is one all the same.
    const std::string whole = read_file(path("q.safetensors"));
    for (const size_t length : {size_t{0}, size_t{40}, whole.size()}) {
      write_file(path("out"), whole.substr(0, length));
      const Result result = nfloat(command);
      EXPECT_TRUE(result.ok()) << result;
    }
  }
  fs::copy_file(path("q.safetensors"), path("other.gguf"));
  expect_complaint(nfloat({"convert", model(), path("other.gguf"), "--overwrite"}), {"not a GGUF model"});
  EXPECT_EQ(read_file(path("other.gguf")), read_file(path("q.safetensors")));
  EXPECT_TRUE(temporaries(folder_).empty());
}

TEST_F(Outputs, PartsOfAWeightThatIsNotThereAreNoWeights) {
  const std::string plain = entry("a.weight", "F32", {8, 8}, 0, 256);
  struct Case {
    std::string part, word;
  };
  for (const Case& one :
       {Case{entry("b.weight.nested_absmax", "F32", {1}, 256, 260), "'b.weight', which is not there"},
        Case{entry("a.weight.absmax", "F32", {1}, 256, 260), "'a.weight', which is not quantized"}}) {
    write_file(path("in.safetensors"),
               safetensors_bytes("{" + plain + "," + one.part + "}", std::string(260, '\0')));
    for (const char* command : {"quantize", "dequantize"}) {
      const Result result = nfloat({command, path("in.safetensors"), path("out.safetensors")});
      EXPECT_EQ(result.exit_code, 1) << result;
      EXPECT_FALSE(fs::exists(path("out.safetensors")));
      if (std::string_view(command) == "quantize") expect_complaint(result, {"in.safetensors", one.word});
    }
  }
}

TEST_F(Outputs, ScalesWhoseMeanOverflowsAreNotWritten) {
  std::string data;
  for (int i = 0; i < 32 * 64; ++i) {
    const float weight = i % 2 == 0 ? 3.2e38f : -3.2e38f;
    data.append(reinterpret_cast<const char*>(&weight), sizeof weight);
  }
  write_file(path("in.safetensors"),
             safetensors_bytes("{" + entry("far.weight", "F32", {32, 64}, 0, data.size()) + "}", data));
  expect_complaint(
      nfloat({"quantize", path("in.safetensors"), path("out.safetensors"), "--double-quantization"}),
      {"in.safetensors", "far.weight", "double quantization"});
  EXPECT_FALSE(fs::exists(path("out.safetensors")));
  EXPECT_TRUE(nfloat({"quantize", path("in.safetensors"), path("out.safetensors")}).ok());
  EXPECT_TRUE(nfloat({"inspect", path("out.safetensors"), "--check"}).ok());
}

TEST_F(Outputs, TablesComeFromPipesAndDescriptorsToo) {
  const Result table = nfloat({"codebook", "nf4", "--json"});
  write_file(path("table.json"), table.out);
  const Result named = nfloat({"codebook", "--file", path("table.json"), "--errors"});
  ASSERT_TRUE(named.ok()) << named;
  Limits limits;
  limits.standard_input = path("table.json");
  EXPECT_TRUE(nfloat({"codebook", "--file", "/dev/stdin", "--errors"}, limits).ok());
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  auto writer = std::async(std::launch::async, [&] { write_file(path("pipe"), table.out); });
  EXPECT_TRUE(nfloat({"codebook", "--file", path("pipe"), "--errors"}).ok());
  writer.get();
}

// RLIMIT_NPROC counts for users that are not root.
TEST_F(Outputs, ThreadsThatTheSystemRefusesAreDoneWithout) {
  if (testing::kSanitized || ::getuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  fs::permissions(folder_, fs::perms::all);
  write_file(path("in.safetensors"), plain_file(1024, 1024));
  const Result free =
      nfloat({"quantize", path("in.safetensors"), path("free.safetensors"), "--threads", "8"});
  ASSERT_TRUE(free.ok()) << free;
  Limits limits;
  limits.as_nobody = true;
  limits.processes = 1;
  const Result result =
      nfloat({"quantize", path("in.safetensors"), path("out.safetensors"), "--threads", "8"}, limits);
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(read_file(path("out.safetensors")), read_file(path("free.safetensors")));
}

class ManyOutputs : public Outputs {
 protected:
  void SetUp() override {
    Cli::SetUp();
    SyntheticModel model;
    model.bytes = 20'000'000;
    make_checkpoint(path("model"), model);
    fs::create_directories(path("place"));
  }
  Result quantize(Limits limits = {}) const {
    return nfloat({"quantize", path("model"), path("place/out")}, limits);
  }
};

TEST_F(ManyOutputs, OfManyRunsToOneNameOneSucceeds) {
  constexpr int kRuns = 5;
  std::vector<pid_t> runs;
  for (int i = 0; i < kRuns; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(quantize().exit_code);
    runs.push_back(pid);
  }
  int succeeded = 0, refused = 0;
  for (const pid_t pid : runs) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    succeeded += WEXITSTATUS(status) == 0;
    refused += WEXITSTATUS(status) == 1;
  }
  EXPECT_EQ(succeeded, 1);
  EXPECT_EQ(refused, kRuns - 1);
  EXPECT_TRUE(nfloat({"inspect", path("place/out"), "--check"}).ok());
  EXPECT_TRUE(temporaries(path("place")).empty());
}

TEST_F(ManyOutputs, SignalsEndARunWithTheShellsCodeAndNothingIsLeft) {
  double seconds = quantize().seconds;
  fs::remove_all(path("place/out"));
  for (const int signal : {SIGHUP, SIGTERM, SIGINT}) {
    int seen = 0;
    for (int moment = 1; moment < 8; ++moment) {
      Limits limits;
      limits.signal = signal;
      limits.after = std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9 * moment / 8));
      const Result result = quantize(limits);
      EXPECT_TRUE(result.ok() || result.exit_code == 128 + signal || result.signal == signal) << result;
      seen += !result.ok();
      if (result.ok()) seconds = std::min(seconds, result.seconds);  // of a machine that is busy no more
      EXPECT_TRUE(temporaries(path("place")).empty()) << "signal " << signal << result;
      fs::remove_all(path("place/out"));
    }
    EXPECT_GT(seen, 0) << "every run ended before signal " << signal;
  }
}

TEST_F(ManyOutputs, APlantedLinkIsNotFollowed) {
  write_file(path("victim"), "untouched");
  for (int pid = ::getpid(); pid < ::getpid() + 300; ++pid)
    fs::create_symlink(path("victim"), path("place/.out.nfloat-" + std::to_string(pid) + ".tmp"));
  EXPECT_TRUE(quantize().ok());
  EXPECT_EQ(read_file(path("victim")), "untouched");
}

// A sparse file takes time to read and no place on the disk.
TEST_F(Outputs, AnInputThatShrinksEndsWithASentence) {
  if (testing::kSanitized) GTEST_SKIP() << "the sanitizer tells of the signal itself";
  constexpr int64_t kRows = 100'000, kBytes = kRows * 4096 * 2;
  const std::string header =
      safetensors_bytes("{" + entry("a.weight", "BF16", {kRows, 4096}, 0, kBytes) + "}", "");
  const int64_t whole = static_cast<int64_t>(header.size()) + kBytes;
  const std::string input = path("in.safetensors");
  write_file(input, header);
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"quantize", input, path("out.safetensors")}, {"analyze", input}}) {
    bool told = false;
    // Again where a busy machine began to read too late, or had read all.
    for (int turn = 0; turn < 56 && !told; ++turn) {
      const int wait = 20 << turn % 7;
      fs::remove(path("out.safetensors"));
      ASSERT_EQ(::truncate(input.c_str(), whole), 0);
      auto cutting = std::async(std::launch::async, [&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(wait));
        return ::truncate(input.c_str(), 100'000);
      });
      const Result result = nfloat(command);
      EXPECT_EQ(cutting.get(), 0);
      EXPECT_EQ(result.signal, 0) << result;
      told = result.err.find("shorter") != std::string::npos;
      if (told) expect_complaint(result, {"in.safetensors", "shorter"});
      EXPECT_TRUE(temporaries(folder_).empty()) << result;
    }
    EXPECT_TRUE(told) << command[0] << " was never met while it read";
  }
}

}  // namespace
}  // namespace nfloat::cli_test
