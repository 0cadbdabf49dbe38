// SPDX-License-Identifier: Apache-2.0
#include "nfloat/plot.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "report/svg.h"

namespace nfloat {
namespace {

constexpr int kLeft = 74, kTop = 46, kBottom = 56;
constexpr int kNarrowRight = 18, kLegendRight = 200;  // a long legend stands beside the drawing

// A range with round ticks that covers the values.
struct Axis {
  double low = INFINITY, high = -INFINITY, step = 1;

  void include(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void finish(bool widen) {
    if (high <= low) {
      const double pad = std::max(std::fabs(low) * 0.1, 1e-9);
      low -= pad;
      high += pad;
    }
    const double rough = (high - low) / 6;
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    step = power * 10;
    for (double factor : {1.0, 2.0, 2.5, 5.0}) {
      if (factor * power >= rough) {
        step = factor * power;
        break;
      }
    }
    if (widen) {
      low = std::floor(low / step + 1e-9) * step;
      high = std::ceil(high / step - 1e-9) * step;
    }
  }
  std::vector<double> ticks() const {
    std::vector<double> values;
    for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k)
      values.push_back(k * step + 0.0);
    return values;
  }
  std::string label(double value) const {
    const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(step) + 0.5)), 0, 8);
    std::string text = fmt::format("{:.{}f}", value, decimals);
    if (text.find('.') != std::string::npos) {
      text.erase(text.find_last_not_of('0') + 1);
      if (text.back() == '.') text.pop_back();
    }
    return text == "-0" ? "0" : text;
  }
};

class Drawing {
 public:
  Drawing(const Plot& plot, int width, int height) : plot_(plot), width_(width), height_(height) {
    for (const PlotSeries& series : plot.series) {
      if (series.x.size() != series.y.size()) {
        fail(ErrorCode::kInvalidArgument, "series '{}' has {} x and {} y", series.name, series.x.size(),
             series.y.size());
      }
      for (double value : series.x) x_.include(value);
      for (double value : series.y) y_.include(value);
      if (series.style == PlotSeries::Style::kStems) y_.include(0);
    }
    const auto named = std::count_if(plot.series.begin(), plot.series.end(),
                                     [](const PlotSeries& series) { return !series.name.empty(); });
    right_ = named > 3 ? kLegendRight : kNarrowRight;
    if (plot.y_from_zero) y_.include(0);
    if (!(x_.low <= x_.high) || !(y_.low <= y_.high)) {
      fail(ErrorCode::kInvalidArgument, "plot '{}': no finite point to draw", plot.title);
    }
    x_.finish(false);
    y_.finish(true);
  }

  std::string draw() {
    out_ = svg_begin(width_, height_, plot_.title, plot_.description, kLeft);
    axes();
    for (size_t i = 0; i < plot_.series.size(); ++i) series(i);
    legend();
    return out_ + "</svg>\n";
  }

 private:
  double px(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (width_ - kLeft - right_); }
  double py(double y) const {
    return height_ - kBottom - (y - y_.low) / (y_.high - y_.low) * (height_ - kTop - kBottom);
  }

  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    out_ += fmt::format(format, std::forward<Args>(args)...);
  }

  void axes() {
    for (double tick : y_.ticks()) {
      add("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft, width_ - right_,
          py(tick), py(tick));
      add("<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", kLeft - 8,
          py(tick) + 4, y_.label(tick));
    }
    for (double tick : x_.ticks()) {
      add("<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>\n", px(tick), kTop,
          height_ - kBottom);
      add("<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", px(tick),
          height_ - kBottom + 18, x_.label(tick));
    }
    add("<line class=\"axis\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\"/>\n", kLeft, width_ - right_,
        height_ - kBottom);
    add("<text text-anchor=\"middle\" x=\"{}\" y=\"{}\">{}</text>\n", (kLeft + width_ - right_) / 2,
        height_ - 14, svg_escaped(plot_.x_label));
    add("<text text-anchor=\"middle\" transform=\"translate(18 {}) rotate(-90)\">{}</text>\n",
        (kTop + height_ - kBottom) / 2, svg_escaped(plot_.y_label));
  }

  size_t colour(size_t index) const {
    const int chosen = plot_.series[index].colour;
    return (chosen < 0 ? index : static_cast<size_t>(chosen)) % kSvgColours;
  }

  void series(size_t index) {
    const PlotSeries& series = plot_.series[index];
    add("<g class=\"s{}\">\n", colour(index));
    std::string points;
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (!std::isfinite(series.x[i]) || !std::isfinite(series.y[i])) continue;
      const double x = px(series.x[i]), y = py(series.y[i]);
      if (series.style == PlotSeries::Style::kLine) {
        points += fmt::format("{:.1f},{:.1f} ", x, y);
        continue;
      }
      if (series.style == PlotSeries::Style::kStems) {
        add("<line class=\"stem\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>\n", x, py(0),
            y);
      }
      add("<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"/>\n", x, y);
    }
    if (!points.empty())
      add("<polyline class=\"line{}\" points=\"{}\"/>\n", series.dashed ? " dashed" : "", points);
    out_ += "</g>\n";
  }

  void legend() {
    int y = kTop + 14;
    const bool beside = right_ == kLegendRight;
    for (size_t i = 0; i < plot_.series.size(); ++i) {
      if (plot_.series[i].name.empty()) continue;
      const int x = beside ? width_ - right_ + 16 : width_ - right_ - 12;
      if (plot_.series[i].style == PlotSeries::Style::kLine) {
        add("<g class=\"s{}\"><line class=\"line{}\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/></g>\n",
            colour(i), plot_.series[i].dashed ? " dashed" : "", x - 8, x + 12, y - 4, y - 4);
      } else {
        add("<g class=\"s{}\"><circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"5\"/></g>\n", colour(i), x + 2,
            y - 4);
      }
      add("<text text-anchor=\"{}\" x=\"{}\" y=\"{}\">{}</text>\n", beside ? "start" : "end",
          beside ? x + 20 : x - 16, y, svg_escaped(plot_.series[i].name));
      y += 21;
    }
  }

  const Plot& plot_;
  const int width_, height_;
  int right_ = kNarrowRight;
  Axis x_, y_;
  std::string out_;
};

}  // namespace

std::string Plot::to_svg(int width, int height) const {
  return Drawing(*this, width, height).draw();
}

}  // namespace nfloat
