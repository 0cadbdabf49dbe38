// SPDX-License-Identifier: Apache-2.0
#include "signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "nfloat/files.h"

namespace nfloat::cli {
namespace {

constexpr int kExitBadInput = 1;
constexpr int kEnding[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXCPU};

// Written by a signal handler, read by every thread.
std::atomic<int> seen{0}, last{SIGINT};
static_assert(std::atomic<int>::is_always_lock_free);

void end_by(int signal) {
  remove_unfinished_outputs();
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void note_interrupt(int signal) {
  last.store(signal, std::memory_order_relaxed);
  seen.store(signal, std::memory_order_relaxed);
}

void note_or_end(int signal) {
  if (seen.load(std::memory_order_relaxed) != 0) return end_by(signal);
  note_interrupt(signal);
}

void say(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

void tell_of_shorter_file(int signal, siginfo_t* info, void*) {
  const char* path = mapped_file_at(info->si_addr);
  if (path == nullptr) {
    ::signal(signal, SIG_DFL);  // the same instruction once more, and the program ends as it would
    return;
  }
  remove_unfinished_outputs();
  say("nfloat: ");
  say(path);
  say(": cannot be read: the file was made shorter while it was in use, or its disk failed\n");
  ::_exit(kExitBadInput);
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction now {};
  if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

void prepare_signals() {
  for (const int signal : kEnding) handle(signal, end_by);
  ::signal(SIGXFSZ, SIG_IGN);
  struct sigaction action {};
  action.sa_sigaction = tell_of_shorter_file;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

void catch_interrupts(bool only_ctrl_c) {
  handle(SIGINT, only_ctrl_c ? note_interrupt : note_or_end);
  if (only_ctrl_c) return;
  handle(SIGTERM, note_or_end);
  handle(SIGHUP, note_or_end);
}

void ignore_requests_to_end() noexcept {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_IGN);
}

void ignore_broken_pipes() noexcept {
  ::signal(SIGPIPE, SIG_IGN);
}

bool interrupted() noexcept {
  return seen.load(std::memory_order_relaxed) != 0;
}

void forget_interrupt() noexcept {
  seen.store(0, std::memory_order_relaxed);
}

int interrupt_exit_code() noexcept {
  return 128 + last.load(std::memory_order_relaxed);
}

}  // namespace nfloat::cli
