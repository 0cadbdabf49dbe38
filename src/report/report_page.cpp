// SPDX-License-Identifier: Apache-2.0
#include "nfloat/report.h"

namespace nfloat {
namespace embedded {
extern const std::string_view page_html, page_css, page_js;
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
  std::string page;
  const std::string_view html = embedded::page_html;
  for (size_t at = 0; at < html.size();) {
    const size_t open = html.find("{{", at);
    page += html.substr(at, open - at);
    if (open == std::string_view::npos) break;
    const size_t close = html.find("}}", open);
    const std::string_view name = html.substr(open + 2, close - open - 2);
    if (name == "data")
      page += inside_script(data);
    else
      page += name == "css" ? embedded::page_css : embedded::page_js;
    at = close + 2;
  }
  return page;
}

}  // namespace nfloat
