// SPDX-License-Identifier: Apache-2.0
// Full disk, interrupt and kill -9 at many moments of a run: never a half file under the final name, and the
// next run succeeds and leaves nothing of the dead one behind.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "cli/checkpoint_maker.h"
#include "cli/process.h"
#include "support/sanitizer.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;

int moments() {
  const char* text = std::getenv("NFLOAT_FAULT_MOMENTS");
  return text != nullptr ? std::max(1, std::atoi(text)) : 12;
}

class Faults : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    SyntheticModel model;
    model.bytes = 30'000'000;
    model.largest_tensor_bytes = 10'000'000;
    model.shard_bytes = 12'000'000;
    make_checkpoint(path("model"), model);
    fs::create_directories(path("place"));
    ASSERT_TRUE(run("place/out").ok());
    whole_ = snapshot(path("place/out"));
    fs::remove_all(path("place/out"));
    for (int i = 0; i < 3; ++i) {
      const Result timed = run("place/out");
      ASSERT_TRUE(timed.ok()) << timed;
      seconds_ = std::max(seconds_, timed.seconds);
      fs::remove_all(path("place/out"));
    }
  }

  Result run(const std::string& out, Limits limits = {}, bool overwrite = false) const {
    std::vector<std::string> command = {"quantize", path("model"), path(out), "--shard-size", "4MB"};
    if (overwrite) command.push_back("--overwrite");
    return nfloat(command, limits);
  }

  // The moments follow the speed of a busy machine: a run that ended by itself says how long one takes now.
  Result struck(int moment, int signal, bool overwrite = false) {
    Limits limits;
    limits.signal = signal;
    limits.after = std::chrono::nanoseconds(static_cast<int64_t>(seconds_ * 1e9 * moment / moments()));
    const Result result = run("place/out", limits, overwrite);
    if (result.ok()) seconds_ = std::min(seconds_, result.seconds);
    return result;
  }

  // The final name holds nothing, or everything.
  void expect_whole_or(const std::map<std::string, std::string>& old, const std::string& what) const {
    const auto now = snapshot(path("place/out"));
    EXPECT_TRUE(now == old || now == whole_) << what << ": " << now.size() << " files under the final name";
  }

  void expect_next_run_succeeds(const std::string& what) const {
    const Result next = run("place/out", {}, /*overwrite=*/true);
    EXPECT_TRUE(next.ok()) << what << next;
    EXPECT_TRUE(snapshot(path("place/out")) == whole_) << what;
    EXPECT_TRUE(temporaries(path("place")).empty())
        << what << ": left behind " << temporaries(path("place"))[0];
  }

  std::map<std::string, std::string> whole_;
  double seconds_ = 0;
};

TEST_F(Faults, KilledAtAnyMoment) {
  int died = 0;
  for (int moment = 0; moment < moments(); ++moment) {
    const std::string what = "kill -9 at moment " + std::to_string(moment);
    const Result result = struck(moment, SIGKILL);
    died += result.signal == SIGKILL;
    expect_whole_or({}, what);
    expect_next_run_succeeds(what);
    EXPECT_FALSE(fs::exists(path("place/out.partial"))) << what;
    fs::remove_all(path("place/out"));
  }
  EXPECT_GT(died, 0) << "every run ended before it was killed: this test looked at nothing";
}

TEST_F(Faults, KilledWhileReplacingAnOldOutput) {
  fs::create_directories(path("place/out"));
  const std::map<std::string, std::string> old = {{"model.safetensors", plain_file(16, 16)},
                                                  {"config.json", "{}"}};
  for (int moment = 0; moment < moments(); ++moment) {
    const std::string what = "kill -9 at moment " + std::to_string(moment);
    fs::remove_all(path("place/out"));
    fs::create_directories(path("place/out"));
    for (const auto& [name, bytes] : old) write_file(path("place/out/" + name), bytes);
    struck(moment, SIGKILL, /*overwrite=*/true);
    expect_whole_or(old, what);
    expect_next_run_succeeds(what);
  }
}

TEST_F(Faults, InterruptedAtAnyMoment) {
  fs::create_directories(path("place/out"));
  const std::map<std::string, std::string> old = {{"model.safetensors", plain_file(16, 16)},
                                                  {"config.json", "{}"}};
  int interrupted = 0;
  for (int moment = 0; moment < moments(); ++moment) {
    const std::string what = "interrupt at moment " + std::to_string(moment);
    fs::remove_all(path("place/out"));
    fs::create_directories(path("place/out"));
    for (const auto& [name, bytes] : old) write_file(path("place/out/" + name), bytes);
    const int signal = moment % 2 == 0 ? SIGINT : SIGTERM;
    const Result result = struck(moment, signal, /*overwrite=*/true);
    EXPECT_TRUE(result.exit_code == 128 + signal || result.ok() || result.signal != 0) << what << result;
    const auto now = snapshot(path("place/out"));
    EXPECT_TRUE(now == (result.ok() ? whole_ : old)) << what << result;
    EXPECT_TRUE(temporaries(path("place")).empty()) << what << result;
    if (result.exit_code == 128 + signal) {
      ++interrupted;
      EXPECT_NE(result.err.find("interrupted"), std::string::npos) << result;
    }
  }
  EXPECT_GT(interrupted, 0) << "every run ended before it was interrupted: this test looked at nothing";
  expect_next_run_succeeds("after interrupts");
}

// Writes fail at a growing offset, as on a disk that fills up under the run.
TEST_F(Faults, FullDiskAtAnyOffset) {
  uint64_t largest = 0;
  for (const auto& [name, bytes] : whole_) largest = std::max<uint64_t>(largest, bytes.size());
  // The thread sanitizer maps a file of 512 KiB of its own at the start, and dies where that cannot grow.
  const uint64_t least = testing::kSanitized ? 600'000 : 1;
  for (int moment = 0; moment < moments(); ++moment) {
    const std::string what = "full disk at moment " + std::to_string(moment);
    Limits limits;
    limits.file_bytes =
        std::max(least, largest * static_cast<uint64_t>(moment) / static_cast<uint64_t>(moments()));
    const Result result = run("place/out", limits);
    // Standard error is a file as well: a limit of a few bytes cuts the sentence itself.
    EXPECT_EQ(result.exit_code, 1) << what << result;
    if (limits.file_bytes > 1000) expect_complaint(result, {"cannot write"});
    EXPECT_FALSE(fs::exists(path("place/out"))) << what;
    // Shards below the limit are whole, and are kept for the next run.
    for (const auto& entry : fs::directory_iterator(path("place")))
      EXPECT_EQ(entry.path().filename().string(), "out.partial") << what;
    if (fs::exists(path("place/out.partial/model"))) {
      EXPECT_TRUE(temporaries(path("place/out.partial/model")).empty()) << what;
    }
  }
  expect_next_run_succeeds("after full disks");
}

}  // namespace
}  // namespace nfloat::cli_test
