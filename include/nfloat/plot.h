// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_PLOT_H_
#define NFLOAT_PLOT_H_

#include <string>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

// One set of points, x and y of equal length.
struct PlotSeries {
  enum class Style : unsigned char { kLine, kStems, kMarkers };
  std::string name;  // for the legend; empty: not in it
  std::vector<double> x, y;
  Style style = Style::kLine;
  bool dashed = false;  // a line's second kind, beside another of the same colour
  int colour = -1;      // one of eight, by number; -1: by its place among the series
};

// A chart as one self-contained SVG document: readable in light and dark (prefers-color-scheme), title and
// description for screen readers, no scripts, no references to elsewhere.
struct NFLOAT_API Plot {
  std::string title;
  std::string description;  // what the picture shows, in a sentence
  std::string x_label, y_label;
  std::vector<PlotSeries> series;
  bool y_from_zero = false;

  // Throws kInvalidArgument when there is nothing finite to draw or a series' x and y differ in length.
  std::string to_svg(int width = 760, int height = 420) const;
};

}  // namespace nfloat

#endif  // NFLOAT_PLOT_H_
