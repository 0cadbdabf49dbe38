// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TABLE_H_
#define NFLOAT_CLI_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace nfloat::cli {

// Columns a reader's eye can follow: words to the left, numbers to the right, two spaces between.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kRight;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // As many cells as columns; missing ones stay empty.
  // What could move a terminal's cursor is escaped.
  void add(std::vector<std::string> cells);
  void add_rule() { rows_.emplace_back(); }
  bool empty() const noexcept { return rows_.empty(); }
  // Title row, rule, rows; each line ends with a newline and has no trailing spaces. `indent` spaces before
  // each. On a terminal of fewer columns, words lose their middle, then the columns that do not fit stand in
  // further tables below, each with the first column.
  std::string to_string(size_t indent = 0) const;

 private:
  std::string lines(size_t indent, const std::vector<size_t>& shown, const std::vector<size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

// Columns that UTF-8 text takes on a terminal.
size_t display_width(std::string_view text) noexcept;

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TABLE_H_
