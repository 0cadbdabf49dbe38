// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CLI_TERMINAL_H_
#define NFLOAT_TESTS_CLI_TERMINAL_H_

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace nfloat::cli_test {

// NFLOAT_CLI with `arguments` in a terminal of its own (a pseudoterminal of 80 columns): what a person sees
// and types.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment = {});
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();  // ends the program

  void type(const std::string& keys) const;
  // Everything shown since the last call, up to and with `text`; a test failure when it does not come (two
  // minutes: a sanitizer is slow).
  std::string wait_for(const std::string& text);
  // The same for "> ", and until the terminal passes every key to the program: one typed earlier is a signal
  // or the end of the input to the system.
  std::string wait_for_prompt();
  // The exit status, once it has ended by itself; -1 when a signal ended it.
  int exit_status();

 private:
  bool read_more(int milliseconds);
  int terminal_ = -1;
  pid_t pid_ = -1;
  std::string shown_;
};

}  // namespace nfloat::cli_test

#endif  // NFLOAT_TESTS_CLI_TERMINAL_H_
