// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_PLOT_H_
#define NFLOAT_PLOT_H_

#include <cstddef>
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
  bool dashed = false;  // to tell a line from another of the same colour
  int colour = -1;      // one of eight, by number; -1: by its place among the series
};

// A chart as one self-contained SVG document: readable in light and dark (prefers-color-scheme), title and
// description for screen readers, no scripts, no external references.
struct NFLOAT_API Plot {
  std::string title;
  std::string description;  // what the picture shows, in a sentence
  std::string x_label, y_label;
  std::vector<PlotSeries> series;
  bool y_from_zero = false;

  // Throws kInvalidArgument when there is nothing finite to draw or a series' x and y differ in length.
  std::string to_svg(int width = 760, int height = 420) const;
};

// Rows with a bar in each of several panels side by side, each panel with its own scale from zero. As Plot.
struct NFLOAT_API BarChart {
  struct Panel {
    std::string label;
    int decimals = 2;  // of the numbers beside the bars
  };
  struct Row {
    std::string name;
    std::vector<double> values;  // one a panel, none negative
    size_t group = 0;
  };
  std::string title, description;
  std::string note;  // a line below the title
  std::vector<std::string> groups;
  std::vector<Panel> panels;
  std::vector<Row> rows;

  // As high as its rows need. Throws kInvalidArgument without rows or for a row without a value a panel.
  std::string to_svg(int width = 860) const;
};

}  // namespace nfloat

#endif  // NFLOAT_PLOT_H_
