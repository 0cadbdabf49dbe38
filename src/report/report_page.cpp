// SPDX-License-Identifier: Apache-2.0
#include "nfloat/report.h"

namespace nfloat {
namespace embedded {
extern const std::string_view page_html, page_css, page_js, figures_svg_js, figures_js, vega_html;
}
namespace {

// "<" would end the element that the data stands in; in JSON it can be written as an escape.
std::string inside_script(std::string_view json) {
  std::string safe;
  safe.reserve(json.size());
  for (const char c : json) {
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  }
  return safe;
}

// What stands in the place of {{name}}.
std::string part(std::string_view name, std::string_view data) {
  if (name == "data") return inside_script(data);
  if (name == "page_css") return std::string(embedded::page_css);
  if (name == "page_js") return std::string(embedded::page_js);
  if (name == "figures_svg_js") return std::string(embedded::figures_svg_js);
  if (name == "vega_html") return std::string(embedded::vega_html);  // empty in a build without Vega
  return std::string(embedded::figures_js);
}

}  // namespace

std::string report_page(std::string_view data) {
  std::string page;
  const std::string_view html = embedded::page_html;
  for (size_t at = 0; at < html.size();) {
    const size_t open = html.find("{{", at);
    page += html.substr(at, open - at);
    if (open == std::string_view::npos) break;
    const size_t close = html.find("}}", open);
    page += part(html.substr(open + 2, close - open - 2), data);
    at = close + 2;
  }
  return page;
}

}  // namespace nfloat
