// SPDX-License-Identifier: Apache-2.0
#include "cli/process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "support/sanitizer.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kCannotStart = 127;
constexpr int kNobody = 65534;

// `command`: the program first, searched in PATH.
[[noreturn]] void become(const std::vector<std::string>& command, const Limits& limits, const fs::path& out,
                         const fs::path& err) {
  const int in_fd =
      ::open(limits.standard_input.empty() ? "/dev/null" : limits.standard_input.c_str(), O_RDONLY);
  const int out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  const int err_fd = ::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  ::dup2(in_fd, STDIN_FILENO);
  ::dup2(out_fd, STDOUT_FILENO);
  ::dup2(err_fd, STDERR_FILENO);
  if (limits.file_bytes > 0) {
    // Ignored, so that the write fails as it does on a full disk instead of killing the process.
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{limits.file_bytes, limits.file_bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  if (limits.processes > 0) {
    const rlimit limit{limits.processes, limits.processes};
    ::setrlimit(RLIMIT_NPROC, &limit);
  }
  ::setenv("NFLOAT_PRECISION", "int8", 0);  // so that no result follows from a measurement
  for (const auto& [name, value] : limits.environment) ::setenv(name.c_str(), value.c_str(), 1);
  if (limits.as_nobody && (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) ::_exit(kCannotStart);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(kCannotStart);
}

Result run(const std::vector<std::string>& command, const Limits& limits) {
  static std::atomic<int> count = 0;  // tests run several at a time
  const std::string stem =
      ::testing::TempDir() + "nfloat-cli-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
  const fs::path out = limits.standard_output.empty() ? stem + ".out" : limits.standard_output;
  const fs::path err = stem + ".err";
  const Clock::time_point start = Clock::now();
  const pid_t pid = ::fork();
  if (pid == 0) become(command, limits, out, err);
  if (limits.signal != 0) {
    std::this_thread::sleep_until(start + limits.after);
    ::kill(pid, limits.signal);
  }
  int status = 0;
  rusage usage{};
  ::wait4(pid, &status, 0, &usage);
  Result result;
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  result.peak_bytes = static_cast<int64_t>(usage.ru_maxrss) * 1024;
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  if (limits.standard_output.empty()) {
    result.out = read_file(out);
    fs::remove(out);
  }
  result.err = read_file(err);
  fs::remove(err);
  return result;
}

}  // namespace

Result nfloat(const std::vector<std::string>& arguments, const Limits& limits) {
  std::vector<std::string> command = {NFLOAT_CLI};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run(command, limits);
}

Result nfloat_by_ranks(int ranks, const std::vector<std::string>& arguments, const Limits& limits,
                       const std::vector<std::string>& others) {
  std::vector<std::string> command = {"mpirun", "--oversubscribe"};
  if (::getuid() == 0) command.emplace_back("--allow-run-as-root");
  const auto add = [&](int count, const std::vector<std::string>& own) {
    command.insert(command.end(), {"-n", std::to_string(count), NFLOAT_CLI});
    command.insert(command.end(), own.begin(), own.end());
  };
  add(others.empty() ? ranks : 1, arguments);
  if (!others.empty()) {
    command.emplace_back(":");
    add(ranks - 1, others);
  }
  return run(command, limits);
}

std::string no_ranks() {
  if (testing::kSanitized) return "Open MPI's own library has leaks and races for the sanitizers";
  if (run({"mpirun", "--version"}, {}).exit_code != 0) return "no mpirun (apt-get install openmpi-bin)";
  const Result version = nfloat({"version"});
  if (version.out.find("Open MPI: yes") == std::string::npos)
    return "built without MPI (apt-get install libopenmpi-dev)";
  return {};
}

std::ostream& operator<<(std::ostream& out, const Result& result) {
  return out << "exit code " << result.exit_code << ", signal " << result.signal << "\n--- standard output\n"
             << result.out << "--- standard error\n"
             << result.err;
}

std::string read_file(const fs::path& path) {
  std::ostringstream bytes;  // a character at a time takes minutes under a sanitizer
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return std::move(bytes).str();
}

std::vector<std::string> read_lines(const fs::path& path) {
  std::vector<std::string> lines;
  std::ifstream in(path, std::ios::binary);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  ASSERT_TRUE(out.good()) << path;
}

std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  if (fs::is_regular_file(folder)) files[""] = read_file(folder);
  if (!fs::is_directory(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files[fs::relative(entry.path(), folder).generic_string()] = read_file(entry.path());
    }
  }
  return files;
}

std::vector<std::string> temporaries(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.find(".nfloat-") != std::string::npos || name.ends_with(".tmp")) names.push_back(name);
  }
  return names;
}

void expect_complaint(const Result& result, const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, 1) << result;
  EXPECT_EQ(result.out, "") << result;
  EXPECT_TRUE(result.err.starts_with("nfloat: ")) << result;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result;
  for (const std::string& word : words)
    EXPECT_NE(result.err.find(word), std::string::npos) << "no '" << word << "' in\n" << result;
}

void Cli::SetUp() {
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  folder_ = fs::path(::testing::TempDir()) /
            ("nfloat-" + std::to_string(::getpid()) + "-" + test->test_suite_name() + "-" + test->name());
  std::string name = folder_.string();
  std::replace(name.begin() + static_cast<std::ptrdiff_t>(::testing::TempDir().size()), name.end(), '/', '-');
  folder_ = name;
  fs::remove_all(folder_);
  fs::create_directories(folder_);
}

void Cli::TearDown() {
  if (!HasFailure()) fs::remove_all(folder_);
}

}  // namespace nfloat::cli_test
