// SPDX-License-Identifier: Apache-2.0
#include "report/svg.h"

#include <fmt/format.h>

namespace nfloat {
namespace {

struct Theme {
  const char *ink, *soft, *grid, *paper;
  const char* series[kSvgColours];
};
constexpr Theme kLight = {
    "#1c2430",
    "#5d6875",
    "#e3e7ec",
    "#ffffff",
    {"#2563c9", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0e7490", "#be185d", "#4b5563"}};
constexpr Theme kDark = {
    "#e8ecf1",
    "#9aa5b1",
    "#2c3440",
    "#12171e",
    {"#7fb0ff", "#ff9d6b", "#6fd08c", "#c99bff", "#e5c35a", "#63cfe6", "#ff8fb8", "#b6c0cc"}};

// Plain colours and no custom properties: many programs that show SVG know only those.
std::string colours(const Theme& theme) {
  std::string css = fmt::format(
      ".paper {{ fill: {0}; }} .grid {{ stroke: {1}; }} .axis {{ stroke: {2}; }} text {{ fill: {3}; }} .tick "
      "{{ fill: {2}; }}\n",
      theme.paper, theme.grid, theme.soft, theme.ink);
  for (size_t i = 0; i < kSvgColours; ++i) {
    css += fmt::format(".s{0} .line, .s{0} .stem {{ stroke: {1}; }} .s{0} .dot {{ fill: {1}; }}\n", i,
                       theme.series[i]);
  }
  return css;
}

std::string style() {
  return "\nsvg { font: 13px system-ui, sans-serif; } .tick { font-size: 12px; } .title { font-size: 16px; "
         "font-weight: 600; }\n"
         ".line { fill: none; stroke-width: 2; stroke-linejoin: round; } .dashed { stroke-dasharray: 6 4; } "
         ".stem { stroke-width: 1.5; }\n" +
         colours(kLight) + "@media (prefers-color-scheme: dark) {\n" + colours(kDark) + "}\n";
}

}  // namespace

std::string svg_escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string svg_begin(int width, int height, const std::string& title, const std::string& description,
                      int left) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "role=\"img\" "
      "aria-labelledby=\"t d\">\n<title id=\"t\">{2}</title>\n<desc "
      "id=\"d\">{3}</desc>\n<style>{4}</style>\n"
      "<rect class=\"paper\" width=\"{0}\" height=\"{1}\"/>\n<text class=\"title\" x=\"{5}\" "
      "y=\"24\">{2}</text>\n",
      width, height, svg_escaped(title), svg_escaped(description), style(), left);
}

}  // namespace nfloat
