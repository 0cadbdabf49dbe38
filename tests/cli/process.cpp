// SPDX-License-Identifier: Apache-2.0
#include "cli/process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstddef>
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
constexpr auto kPatience = std::chrono::minutes(5);  // with what Limits::once waits for

// Whatever the tests were started with, Ctrl-C in a script's background or `nohup` among it.
void forget_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

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
  forget_signals();
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
  for (const char* name : {"NFLOAT_DEVICE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
    ::unsetenv(name);
  ::setenv("NFLOAT_PRECISION", "int8", 0);  // so that no result follows from a measurement
  for (const auto& [name, value] : limits.environment) ::setenv(name.c_str(), value.c_str(), 1);
  if (limits.as_nobody && (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) ::_exit(kCannotStart);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  ::_exit(kCannotStart);
}

// A child that was not waited for yet.
bool runs(pid_t pid) {
  siginfo_t ended{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         ended.si_pid == 0;
}

// Until the time or the event of `limits` has come, or the child has ended.
void wait_for_moment(pid_t pid, const Limits& limits, Clock::time_point start, const fs::path& err) {
  constexpr std::chrono::nanoseconds kTurn = std::chrono::milliseconds(2);
  for (Clock::time_point now = start; now < start + limits.after && runs(pid); now = Clock::now())
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kTurn, start + limits.after - now));
  if (!limits.once) return;
  while (runs(pid) && !limits.once(read_file(err)) && Clock::now() < start + kPatience)
    std::this_thread::sleep_for(5 * kTurn);
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
    wait_for_moment(pid, limits, start, err);
    ::kill(pid, limits.signal);
  }
  int status = 0;
  rusage usage{};
  ::wait4(pid, &status, 0, &usage);
  Result result;
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  result.peak_bytes = static_cast<int64_t>(usage.ru_maxrss) * 1024;
  for (const timeval& time : {usage.ru_utime, usage.ru_stime})
    result.processor_seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
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
  // Runs of mpirun at the same time make and remove one folder, each for the others too.
  std::string folder = "/tmp/nfloat-mpi-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) folder = "/tmp";
  Limits own = limits;
  for (const char* name : {"OMPI_MCA_orte_tmpdir_base", "PRTE_MCA_prte_tmpdir_base"})
    own.environment[name] = folder;
  const Result result = run(command, own);
  std::error_code ignored;
  if (folder != "/tmp") fs::remove_all(folder, ignored);
  return result;
}

std::string no_ranks() {
  if (testing::kSanitized) return "Open MPI's own library has leaks and races for the sanitizers";
  if (run({"mpirun", "--version"}, {}).exit_code != 0) return "no mpirun (apt-get install openmpi-bin)";
  const Result version = nfloat({"version"});
  if (version.out.find("Open MPI: yes") == std::string::npos)
    return "built without MPI (apt-get install libopenmpi-dev)";
  return {};
}

ServiceManager::ServiceManager(const std::string& name)
    : name_(name), socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path, sizeof address.sun_path - 1);
  if (name[0] == '@') address.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  EXPECT_EQ(::bind(socket_, reinterpret_cast<const sockaddr*>(&address), length), 0) << name;
}

ServiceManager::~ServiceManager() {
  ::close(socket_);
}

const std::vector<std::string>& ServiceManager::told() {
  char text[64];
  for (ssize_t count = 0; (count = ::recv(socket_, text, sizeof text, 0)) >= 0;)
    told_.emplace_back(text, static_cast<size_t>(count));
  return told_;
}

Limits ServiceManager::until_ready() {
  Limits limits;
  limits.signal = SIGTERM;
  limits.environment["NOTIFY_SOCKET"] = name_;
  limits.once = [this](const std::string&) {
    return std::count(told().begin(), told().end(), "READY=1") > 0;
  };
  return limits;
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
