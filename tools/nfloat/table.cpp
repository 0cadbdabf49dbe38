// SPDX-License-Identifier: Apache-2.0
#include "table.h"

#include <algorithm>

namespace nfloat::cli {

size_t display_width(std::string_view text) noexcept {
  // The texts in our tables are Latin, Greek and mathematical signs: one column a code point.
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string Table::to_string(size_t indent) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(display_width(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i)
      widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string text;
  const auto add_line = [&](const auto& cell_of) {
    std::string line(indent, ' ');
    for (size_t i = 0; i < columns_.size(); ++i) {
      const std::string_view cell = cell_of(i);
      const std::string padding(widths[i] - display_width(cell), ' ');
      if (i > 0) line += "  ";
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
