// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>

namespace nfloat::cli_test {

Terminal::Terminal(const std::vector<std::string>& arguments,
                   const std::map<std::string, std::string>& environment) {
  winsize size{};
  size.ws_row = 24;
  size.ws_col = 80;
  pid_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
  if (pid_ != 0) return;
  for (const int signal : {SIGINT, SIGHUP, SIGQUIT}) ::signal(signal, SIG_DFL);  // whatever the tests have
  ::setenv("TERM", "xterm", 1);
  ::unsetenv("NO_COLOR");
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv = {const_cast<char*>(NFLOAT_CLI)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(NFLOAT_CLI, argv.data());
  ::_exit(127);
}

Terminal::~Terminal() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(terminal_);
}

void Terminal::type(const std::string& keys) const {
  EXPECT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
}

bool Terminal::read_more(int milliseconds) {
  pollfd ready{terminal_, POLLIN, 0};
  if (::poll(&ready, 1, milliseconds) <= 0) return false;
  char buffer[4096];
  const ssize_t count = ::read(terminal_, buffer, sizeof(buffer));
  if (count <= 0) return false;
  shown_.append(buffer, static_cast<size_t>(count));
  return true;
}

std::string Terminal::wait_for(const std::string& text) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (true) {
    if (const size_t place = shown_.find(text); place != std::string::npos) {
      std::string result = shown_.substr(0, place + text.size());
      shown_.erase(0, place + text.size());
      return result;
    }
    if (!read_more(500) && (std::chrono::steady_clock::now() > end || ::kill(pid_, 0) != 0)) break;
  }
  ADD_FAILURE() << "'" << text << "' does not appear in\n" << shown_;
  return {};
}

std::string Terminal::wait_for_prompt() {
  std::string result = wait_for("> ");
  for (int i = 0; i < 1000; ++i) {
    termios settings{};
    if (::tcgetattr(terminal_, &settings) == 0 && (settings.c_lflag & ICANON) == 0) return result;
    ::usleep(10'000);
  }
  ADD_FAILURE() << "the terminal is not prepared for keys";
  return result;
}

int Terminal::exit_status() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  int status = 0;
  while (std::chrono::steady_clock::now() < end) {
    read_more(50);
    if (::waitpid(pid_, &status, WNOHANG) != pid_) continue;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  ADD_FAILURE() << "it does not end; shown:\n" << shown_;
  return -1;
}

}  // namespace nfloat::cli_test
