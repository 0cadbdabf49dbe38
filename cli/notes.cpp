// SPDX-License-Identifier: Apache-2.0
#include "notes.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "nfloat/files.h"
#include "progress.h"

namespace nfloat::cli {
namespace {

size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t k = 0; k < b.size(); ++k) {
      const size_t change = diagonal + (a[i] != b[k]);
      diagonal = row[k + 1];
      row[k + 1] = std::min({change, row[k] + 1, row[k + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

bool& quiet() noexcept {
  static bool value = false;
  return value;
}

std::atomic<bool>& progress_shown() noexcept {
  static std::atomic<bool> value = false;
  return value;
}

void say(std::string_view text) noexcept {
  if (progress_shown().exchange(false)) std::fputs("\r\x1b[K", stderr);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

void warn(std::string_view text) {
  say(fmt::format("nfloat: warning: {}\n", one_line(text)));
}

std::string one_line(std::string_view text, size_t most) {
  std::string line = printable(text);
  if (line.size() <= most) return line;
  constexpr std::string_view kGap = " ... ";
  size_t head = most * 2 / 3, tail = line.size() - (most - head - kGap.size());
  const auto inside = [&](size_t at) { return (line[at] & 0xc0) == 0x80; };
  while (head > 0 && inside(head)) --head;
  while (tail < line.size() && inside(tail)) ++tail;
  return line.substr(0, head) + std::string(kGap) + line.substr(tail);
}

std::string count_of(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string did_you_mean(std::string_view wrong, const std::vector<std::string>& known) {
  const std::string* best = nullptr;
  size_t least = std::max<size_t>(1, wrong.size() / 3) + 1;
  for (const std::string& name : known) {
    const size_t far = distance(wrong, name);
    if (far >= least) continue;
    least = far;
    best = &name;
  }
  return best == nullptr ? "" : fmt::format(", did you mean \"{}\"?", *best);
}

void write_result_file(const std::string& path, std::string_view text) {
  write_output_file(path, text);
  note("{}: written, {}\n", printable(path), format_bytes(text.size()));
}

void write_answer(std::string_view text) {
  std::string safe;
  if (::isatty(STDOUT_FILENO) == 1) {
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find_first_of("\n\t", at), text.size());
      safe += printable(text.substr(at, end - at));
      if (end < text.size()) safe += text[end];
      at = end + 1;
    }
    text = safe;
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace nfloat::cli
