// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_REPORT_SVG_H_
#define NFLOAT_REPORT_SVG_H_

#include <cstddef>
#include <string>

// What every drawing shares: its first lines with the colours for light and dark, and text made safe.
namespace nfloat {

inline constexpr size_t kSvgColours = 8;  // classes s0 to s7, for .line, .stem and .dot inside them

std::string svg_escaped(const std::string& text);

// From <svg> to the title, `left` units from the edge. The caller closes with </svg>.
std::string svg_begin(int width, int height, const std::string& title, const std::string& description,
                      int left);

}  // namespace nfloat

#endif  // NFLOAT_REPORT_SVG_H_
