// SPDX-License-Identifier: Apache-2.0
#include "table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "nfloat/text.h"

namespace nfloat::cli {

size_t display_width(std::string_view text) noexcept {
  // The texts in our tables are Latin, Greek and mathematical signs: one column a code point.
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

namespace {

constexpr size_t kLeastWords = 16;  // columns that words keep

size_t terminal_columns() noexcept {
  struct winsize size {};
  if (::isatty(STDOUT_FILENO) != 1 || ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
    return SIZE_MAX;
  return size.ws_col;
}

// The text in at most `columns` columns, its middle left out.
std::string fitted(std::string_view text, size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  const auto begin_of = [&](size_t character) {
    size_t at = 0;
    for (; at < text.size(); ++at)
      if ((text[at] & 0xc0) != 0x80 && character-- == 0) break;
    return at;
  };
  const size_t head = (columns - 1) / 2, tail = columns - 1 - head;
  return std::string(text.substr(0, begin_of(head))) + "…" +
         std::string(text.substr(begin_of(display_width(text) - tail)));
}

}  // namespace

void Table::add(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = printable(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::to_string(size_t indent) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(display_width(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i)
      widths[i] = std::max(widths[i], display_width(row[i]));
  }
  const size_t most = terminal_columns();
  const auto total = [&] {
    return std::accumulate(widths.begin(), widths.end(), indent + 2 * (widths.size() - 1));
  };
  while (total() > most) {
    size_t widest = widths.size();
    for (size_t i = 0; i < widths.size(); ++i)
      if (columns_[i].align == Align::kLeft && widths[i] > kLeastWords &&
          (widest == widths.size() || widths[i] > widths[widest]))
        widest = i;
    if (widest == widths.size()) break;
    widths[widest] = std::max(kLeastWords, widths[widest] - std::min(widths[widest], total() - most));
  }
  std::string text;
  size_t next = 1;
  do {
    std::vector<size_t> shown = {0};
    size_t used = indent + widths[0];
    while (next < columns_.size() && (shown.size() == 1 || used + 2 + widths[next] <= most)) {
      used += 2 + widths[next];
      shown.push_back(next++);
    }
    if (!text.empty()) text += "\n";
    text += lines(indent, shown, widths);
  } while (next < columns_.size());
  return text;
}

std::string Table::lines(size_t indent, const std::vector<size_t>& shown,
                         const std::vector<size_t>& widths) const {
  std::string text;
  const auto add_line = [&](const auto& cell_of) {
    std::string line(indent, ' ');
    for (const size_t i : shown) {
      const std::string cell = fitted(cell_of(i), widths[i]);
      const std::string padding(widths[i] - display_width(cell), ' ');
      if (i != shown[0]) line += "  ";
      line += columns_[i].align == Align::kRight ? padding : "";
      line += cell;
      line += columns_[i].align == Align::kLeft ? padding : "";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  std::vector<std::string> rules;
  for (size_t width : widths) {
    std::string& rule = rules.emplace_back();
    for (size_t i = 0; i < width; ++i) rule += "─";
  }
  add_line([&](size_t i) -> std::string_view { return columns_[i].title; });
  add_line([&](size_t i) -> std::string_view { return rules[i]; });
  for (const auto& row : rows_) {
    if (row.empty()) {
      add_line([&](size_t i) -> std::string_view { return rules[i]; });
    } else {
      add_line([&](size_t i) -> std::string_view { return i < row.size() ? std::string_view(row[i]) : ""; });
    }
  }
  return text;
}

}  // namespace nfloat::cli
