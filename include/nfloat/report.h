// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_REPORT_H_
#define NFLOAT_REPORT_H_

#include <string>
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// The report of a comparison as one HTML file that loads nothing: styles, script and data inside. `data`: the
// JSON document that `nfloat compare --json` writes, with "weights", "nf4" and "sweep"
// (tools/nfloat/compare_report.cpp says what they hold). The JSON is not checked, only made safe to stand
// inside a page.
NFLOAT_API std::string report_page(std::string_view data);

}  // namespace nfloat

#endif  // NFLOAT_REPORT_H_
