// SPDX-License-Identifier: Apache-2.0
// What is kept for further runs: shared by runs at the same time, damaged, without a place, listed and
// cleared.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

class Cache : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    write_file(path("text"), read_file(model() + "/stories.txt").substr(0, 900));
    limits_.environment["XDG_CACHE_HOME"] = path("cache");
  }
  Result compare(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> command = {"compare", model(), "--text", path("text"), "--formats", "nf4,q8_0"};
    command.insert(command.end(), more.begin(), more.end());
    return nfloat(command, limits_);
  }
  Result against() const {
    return nfloat({"perplexity", model(), "--quantize", "nf4", "--text", path("text"), "--protocol", "bos",
                   "--reference", model(), "--json"},
                  limits_);
  }
  std::vector<fs::path> kept() const {
    std::vector<fs::path> list;
    if (!fs::exists(path("cache/nfloat"))) return list;
    for (const auto& entry : fs::directory_iterator(path("cache/nfloat"))) list.push_back(entry.path());
    return list;
  }
  Limits limits_;
};

TEST_F(Cache, ComparisonsOfOneModelAtOnceAllSucceed) {
  std::vector<pid_t> runs;
  for (int i = 0; i < 3; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(compare().exit_code);
    runs.push_back(pid);
  }
  for (const pid_t pid : runs) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  EXPECT_TRUE(kept().empty()) << kept()[0];
}

TEST_F(Cache, ADamagedReferenceIsMadeAgain) {
  const Result first = against();
  ASSERT_TRUE(first.ok()) << first;
  ASSERT_EQ(kept().size(), 1u);
  std::string bytes = read_file(kept()[0]);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file(kept()[0], bytes);
  const Result second = against();
  EXPECT_TRUE(second.ok()) << second;
  EXPECT_EQ(second.out, first.out);
  EXPECT_NE(second.err.find("for further runs"), std::string::npos) << second;
  const Result third = against();
  EXPECT_EQ(third.out, first.out);
  EXPECT_EQ(third.err.find("for further runs"), std::string::npos) << third;
}

TEST_F(Cache, AReferenceReplacesNoFileOfAnotherKind) {
  write_file(path("weights"), "GGUF and what follows");
  const Result result =
      nfloat({"perplexity", model(), "--quantize", "nf4", "--text", path("text"), "--protocol", "bos",
              "--reference", model(), "--reference-cache", path("weights")});
  EXPECT_EQ(result.exit_code, 1) << result;
  EXPECT_NE(result.err.find("only such are replaced"), std::string::npos) << result;
  EXPECT_EQ(read_file(path("weights")), "GGUF and what follows");
}

TEST_F(Cache, WithoutAPlaceTheResultIsStillThere) {
  const Result first = against();
  write_file(path("file"), "");
  for (const char* place : {"file/below", "/proc/nfloat"}) {
    limits_.environment["XDG_CACHE_HOME"] = *place == '/' ? place : path(place);
    const Result result = against();
    ASSERT_TRUE(result.ok()) << result;
    // What is kept has 16 bits for each log-probability.
    const Json kept = Json::parse(first.out), side_by_side = Json::parse(result.out);
    EXPECT_EQ(side_by_side.at("perplexity"), kept.at("perplexity"));
    const auto kl = [](const Json& json) { return json.at("divergence").at("mean_kl").get<double>(); };
    EXPECT_NEAR(kl(side_by_side), kl(kept), 1e-5);
    EXPECT_NE(result.err.find("--reference-cache"), std::string::npos) << result;
    const Result comparison = compare();
    EXPECT_TRUE(comparison.ok()) << comparison;
    EXPECT_NE(comparison.err.find("--work"), std::string::npos) << comparison;
  }
}

TEST_F(Cache, NoFolderThatAllUsersShare) {
  limits_.environment["XDG_CACHE_HOME"] = "relative";
  limits_.environment["HOME"] = path("home");
  EXPECT_TRUE(against().ok());
  EXPECT_TRUE(fs::exists(path("home/.cache/nfloat")));
  EXPECT_FALSE(fs::exists("relative"));
  struct stat info {};
  ASSERT_EQ(::stat(path("home/.cache/nfloat").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 077, 0u);
}

TEST_F(Cache, IsListedLimitedAndCleared) {
  ASSERT_TRUE(against().ok());
  const Json list = Json::parse(nfloat({"cache", "--json"}, limits_).out);
  ASSERT_EQ(list.at("entries").size(), 1u);
  EXPECT_EQ(list.at("bytes").get<uint64_t>(), fs::file_size(kept()[0]));
  EXPECT_NE(nfloat({"cache"}, limits_).out.find(kept()[0].filename().string()), std::string::npos);
  write_file(path("cache/nfloat/letter"), "not ours");
  EXPECT_TRUE(nfloat({"cache", "--limit", "10GB"}, limits_).ok());
  EXPECT_EQ(kept().size(), 2u);
  const Result limited = nfloat({"cache", "--limit", "10kB"}, limits_);
  EXPECT_TRUE(limited.ok()) << limited;
  ASSERT_EQ(kept().size(), 1u);
  EXPECT_EQ(kept()[0].filename(), "letter");
  ASSERT_TRUE(against().ok());
  EXPECT_TRUE(nfloat({"cache", "--clear"}, limits_).ok());
  EXPECT_EQ(kept().size(), 1u);
  EXPECT_EQ(nfloat({"cache", "--clear", "--limit", "1GB"}, limits_).exit_code, 2);
}

}  // namespace
}  // namespace nfloat::cli_test
