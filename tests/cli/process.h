// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CLI_PROCESS_H_
#define NFLOAT_TESTS_CLI_PROCESS_H_

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>
#include "support/paths.h"

// Runs the built command line as a user does, and looks at what it leaves behind.
namespace nfloat::cli_test {

struct Limits {
  uint64_t file_bytes = 0;            // RLIMIT_FSIZE, a write beyond it fails; 0: none
  int signal = 0;                     // sent `after` the start, 0: none; to none that has ended
  std::chrono::nanoseconds after{0};  //
  // Sent later, when this is true, which is asked again and again with what standard error has.
  std::function<bool(const std::string&)> once;
  std::map<std::string, std::string> environment;  // added to ours
  std::string standard_input;                      // a file; "": nothing comes
  std::string standard_output;                     // a device to use instead of a file
  uint64_t processes = 0;                          // RLIMIT_NPROC, threads among them; 0: none
  bool as_nobody = false;                          // give up root first, so that permissions count
};

struct Result {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;
  std::string out, err;
  int64_t peak_bytes = 0;  // resident, mapped files included
  double seconds = 0;
  double processor_seconds = 0;  // of all its threads

  bool ok() const { return exit_code == 0; }
};

// NFLOAT_CLI with `arguments`, no standard input, no terminal.
Result nfloat(const std::vector<std::string>& arguments, const Limits& limits = {});

// The same by `ranks` processes that mpirun starts. `others`: the arguments of the ranks from 1 on, where
// they differ.
Result nfloat_by_ranks(int ranks, const std::vector<std::string>& arguments, const Limits& limits = {},
                       const std::vector<std::string>& others = {});
// Why that is not possible here; empty when it is.
std::string no_ranks();

// Hears what `nfloat serve` tells a service manager.
class ServiceManager {
 public:
  // `name`: of a socket, a path or with '@' none.
  explicit ServiceManager(const std::string& name);
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;
  ~ServiceManager();
  const std::vector<std::string>& told();  // so far
  void forget() { told_.clear(); }
  // A server under it that gets SIGTERM when it is ready.
  Limits until_ready();

 private:
  const std::string name_;
  int socket_;
  std::vector<std::string> told_;
};

// What a failed expectation prints.
std::ostream& operator<<(std::ostream& out, const Result& result);

std::string read_file(const std::filesystem::path& path);
std::vector<std::string> read_lines(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& bytes);

// Every file under `folder` (or `folder` itself) with its bytes.
std::map<std::string, std::string> snapshot(const std::filesystem::path& folder);

// Names in `folder` that our unfinished work has.
std::vector<std::string> temporaries(const std::filesystem::path& folder);

// A bad input's answer: exit code 1, nothing on standard output, one line on standard error that begins with
// "nfloat: " and holds every one of `words`.
void expect_complaint(const Result& result, const std::vector<std::string>& words);

// A folder of its own for every test.
class Cli : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  static std::string model() { return testing::source_path("/models/nfloat-tiny"); }
  std::filesystem::path folder_;
};

}  // namespace nfloat::cli_test

#endif  // NFLOAT_TESTS_CLI_PROCESS_H_
