// SPDX-License-Identifier: Apache-2.0
#include "progress.h"
#include "notes.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace nfloat::cli {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
size_t terminal_columns() {
  struct winsize size {};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string format_seconds(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

ProgressBar::ProgressBar(std::string label, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      terminal_(::isatty(STDERR_FILENO) == 1 && !quiet()),
      start_(Clock::now()),
      last_(start_ - kRedraw) {}

void ProgressBar::update(uint64_t done, uint64_t total, const std::string& note) {
  const Clock::time_point now = Clock::now();
  if (!terminal_ || total == 0 || now - last_ < kRedraw) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string text = fmt::format(" {:3.0f} %  {}", 100 * share, note);
  if (rate > 0) {
    text +=
        unit_ == "GB" ? fmt::format("  {:.2f} GB/s", rate / 1e9) : fmt::format("  {:.0f} {}/s", rate, unit_);
    text +=
        fmt::format("  {} left", format_seconds(static_cast<double>(total - std::min(done, total)) / rate));
  }
  const size_t columns = terminal_columns();
  const size_t used = label_.size() + text.size() + 4;
  const size_t width = columns > used + 8 ? std::min<size_t>(columns - used, 30) : 0;
  std::string bar;
  const auto filled = static_cast<size_t>(share * static_cast<double>(width));
  for (size_t i = 0; i < width; ++i) bar += i < filled ? "█" : "░";
  fmt::print(stderr, "\r{} {}{}\x1b[K", label_, bar,
             text.substr(0, columns > label_.size() + 2 ? columns - label_.size() - 2 : 0));
  std::fflush(stderr);
  drawn_ = true;
  progress_shown() = true;
}

void ProgressBar::finish() {
  if (!std::exchange(drawn_, false) || !progress_shown().exchange(false)) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
}

}  // namespace nfloat::cli
