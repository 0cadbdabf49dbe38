// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "nfloat/plot.h"
#include "report/svg.h"

namespace nfloat {
namespace {

constexpr int kFirstRow = 84, kRow = 25, kBar = 15, kGap = 26, kEdge = 16;
constexpr int kLetter = 7;  // about the width of one, in units of the drawing

}  // namespace

std::string BarChart::to_svg(int width) const {
  if (rows.empty() || panels.empty()) fail(ErrorCode::kInvalidArgument, "chart '{}': nothing to draw", title);
  size_t longest = 0;
  for (const BarChart::Row& row : rows) longest = std::max(longest, row.name.size());
  const int left = kEdge + static_cast<int>(longest) * kLetter + 10;
  const int count = static_cast<int>(panels.size());
  const int wide = (width - left - kEdge - (count - 1) * kGap) / count;
  const int bottom = kFirstRow + kRow * static_cast<int>(rows.size());
  std::string out =
      svg_begin(width, bottom + 12 + (groups.empty() ? 0 : 30), title, description, kEdge) +
      fmt::format("<text class=\"tick\" x=\"{}\" y=\"44\">{}</text>\n", kEdge, svg_escaped(note));
  for (size_t i = 0; i < rows.size(); ++i)
    out += fmt::format("<text text-anchor=\"end\" x=\"{}\" y=\"{}\">{}</text>\n", left - 10,
                       kFirstRow + kRow * static_cast<int>(i) + 16, svg_escaped(rows[i].name));
  for (int p = 0; p < count; ++p) {
    const BarChart::Panel& panel = panels[static_cast<size_t>(p)];
    const int x = left + p * (wide + kGap);
    double largest = 0;
    size_t letters = 0;
    for (const BarChart::Row& row : rows) {
      const size_t at = static_cast<size_t>(p);
      if (at >= row.values.size() || !std::isfinite(row.values[at]) || row.values[at] < 0)
        fail(ErrorCode::kInvalidArgument, "chart '{}': row '{}' has no value for '{}'", title, row.name,
             panel.label);
      largest = std::max(largest, row.values[at]);
      letters = std::max(letters, fmt::format("{:.{}f}", row.values[at], panel.decimals).size());
    }
    const double room = wide - static_cast<double>(letters * kLetter + 8);
    out += fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", x, kFirstRow - 12, svg_escaped(panel.label));
    out += fmt::format("<line class=\"axis\" x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\"/>\n", x, kFirstRow,
                       bottom);
    for (size_t i = 0; i < rows.size(); ++i) {
      const double value = rows[i].values[static_cast<size_t>(p)];
      const double length = largest > 0 ? value / largest * room : 0;
      const int y = kFirstRow + kRow * static_cast<int>(i);
      out += fmt::format(
          "<g class=\"s{}\"><rect class=\"dot\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" "
          "rx=\"2\"/></g>"
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{}\">{:.{}f}</text>\n",
          rows[i].group % kSvgColours, x, y + (kRow - kBar) / 2, length, kBar, x + length + 6, y + 16, value,
          panel.decimals);
    }
  }
  int x = left;
  for (size_t i = 0; i < groups.size(); ++i) {
    out += fmt::format(
        "<g class=\"s{}\"><circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"5\"/></g><text x=\"{}\" "
        "y=\"{}\">{}</text>\n",
        i % kSvgColours, x + 5, bottom + 22, x + 16, bottom + 26, svg_escaped(groups[i]));
    x += 36 + static_cast<int>(groups[i].size()) * kLetter;
  }
  return out + "</svg>\n";
}

}  // namespace nfloat
