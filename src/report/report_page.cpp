// SPDX-License-Identifier: Apache-2.0
#include "nfloat/report.h"

#include <utility>

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

}  // namespace

std::string report_page(std::string_view data) {
  const std::string safe = inside_script(data);
  // What stands in the place of {{name}}; vega_html is empty in a build without Vega.
  const std::pair<std::string_view, std::string_view> parts[] = {{"data", safe},
                                                                 {"page_css", embedded::page_css},
                                                                 {"page_js", embedded::page_js},
                                                                 {"figures_svg_js", embedded::figures_svg_js},
                                                                 {"vega_html", embedded::vega_html},
                                                                 {"figures_js", embedded::figures_js}};
  std::string page;
  const std::string_view html = embedded::page_html;
  for (size_t at = 0; at < html.size();) {
    const size_t open = html.find("{{", at);
    page += html.substr(at, open - at);
    if (open == std::string_view::npos) break;
    const size_t close = html.find("}}", open);
    const std::string_view wanted = html.substr(open + 2, close - open - 2);
    for (const auto& [name, text] : parts)
      if (name == wanted) page += text;
    at = close + 2;
  }
  return page;
}

}  // namespace nfloat
