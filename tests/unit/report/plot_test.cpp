// SPDX-License-Identifier: Apache-2.0
#include "nfloat/plot.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nfloat/error.h"
#include "nfloat/report.h"

namespace nfloat {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

TEST(Plot, DrawsEveryPointAndEscapesText) {
  Plot plot;
  plot.title = "a < b & \"c\"";
  plot.description = "what is shown";
  plot.series = {{"stems", {-1, 0, 1}, {0.1, 0.4, 0.1}, PlotSeries::Style::kStems},
                 {"dots", {0, 0.5}, {0.2, 0.3}, PlotSeries::Style::kMarkers},
                 {"line", {-1, 0, 1}, {0, NAN, 0.5}, PlotSeries::Style::kLine}};
  const std::string svg = plot.to_svg();
  EXPECT_EQ(count(svg, "class=\"stem\""), 3u);
  EXPECT_EQ(count(svg, "r=\"3.5\""), 5u);
  EXPECT_EQ(count(svg, "<polyline"), 1u);
  EXPECT_EQ(count(svg, "r=\"5\""), 2u);  // the legend: dots for points, a stroke for a line
  EXPECT_EQ(count(svg, "<line class=\"line\""), 1u);
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_NE(svg.find("<desc id=\"d\">what is shown</desc>"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Plot, TwoKindsOfLineShareAColour) {
  Plot plot;
  plot.series = {{"solid", {0, 1}, {0, 1}}, {"dashed", {0, 1}, {1, 2}}};
  plot.series[0].colour = plot.series[1].colour = 5;
  plot.series[1].dashed = true;
  const std::string svg = plot.to_svg();
  EXPECT_EQ(count(svg, "<g class=\"s5\">"), 4u);  // line and legend of both
  EXPECT_EQ(count(svg, "class=\"line dashed\""), 2u);
}

TEST(BarChart, DrawsABarForEachValueInItsPanelsScale) {
  BarChart chart;
  chart.title = "a & b";
  chart.groups = {"one", "two"};
  chart.panels = {{"small", 4}, {"large", 0}};
  chart.rows = {{"first", {0.5, 200}, 0}, {"second", {1, 100}, 1}, {"third", {0, 0}, 1}};
  const std::string svg = chart.to_svg();
  EXPECT_EQ(count(svg, "<rect class=\"dot\""), 6u);
  EXPECT_EQ(count(svg, "<title id=\"t\">a &amp; b</title>"), 1u);
  EXPECT_NE(svg.find(">0.5000</text>"), std::string::npos);
  EXPECT_NE(svg.find(">200</text>"), std::string::npos);
  const auto width = [&](size_t bar) {
    size_t at = 0;
    for (size_t i = 0; i <= bar; ++i) at = svg.find("<rect class=\"dot\"", at + 1);
    return std::stod(svg.substr(svg.find("width=\"", at) + 7));
  };
  EXPECT_NEAR(width(0), width(1) / 2, 0.1);  // the first panel's rows, then the second's
  EXPECT_NEAR(width(4), width(3) / 2, 0.1);
  EXPECT_EQ(width(5), 0);
  chart.rows[1].values = {1};
  EXPECT_THROW(chart.to_svg(), Error);
  chart.rows.clear();
  EXPECT_THROW(chart.to_svg(), Error);
}

TEST(ReportPage, HoldsItsDataAndLoadsNothing) {
  const std::string page = report_page(R"({"model": "</script><b>{{css}}"})");
  EXPECT_NE(page.find(R"({"model": "\u003c/script>\u003cb>{{css}}"})"), std::string::npos);
  EXPECT_EQ(count(page, "</script>"), count(page, "<script"));
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  EXPECT_EQ(page.find(" src="), std::string::npos);
  EXPECT_EQ(count(page, "href=\""), 1u);  // the empty icon
}

TEST(Plot, RefusesWhatCannotBeDrawn) {
  Plot plot;
  EXPECT_THROW(plot.to_svg(), Error);
  plot.series = {{"", {NAN}, {1.0}}};
  EXPECT_THROW(plot.to_svg(), Error);
  plot.series = {{"", {1, 2}, {1}}};
  EXPECT_THROW(plot.to_svg(), Error);
  plot.series = {{"", {1}, {1}}};
  EXPECT_NO_THROW(plot.to_svg());
}

}  // namespace
}  // namespace nfloat
