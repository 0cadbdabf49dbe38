// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <functional>

#include "base/fail.h"
#include "nfloat/plot.h"
#include "nfloat/train_report.h"
#include "report/svg.h"

namespace nfloat {
namespace embedded {
extern const std::string_view page_css;
}
namespace {

// A picture inside the page: its own document, so that two of them share no names.
std::string picture(const Plot& plot) {
  std::string data;
  for (const char c : plot.to_svg()) {
    if (c == '%' || c == '#' || c == '<' || c == '>' || c == '"' || c == '&' || c == '\'' || c == '\n')
      data += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    else
      data += c;
  }
  return fmt::format("<figure><img alt=\"{}\" style=\"width:100%\" src=\"data:image/svg+xml,{}\"></figure>\n",
                     svg_escaped(plot.description), data);
}

PlotSeries curve(const TrainReport& report, std::string name,
                 const std::function<double(const TrainStep&)>& value) {
  PlotSeries series;
  series.name = std::move(name);
  for (const TrainStep& step : report.steps) {
    series.x.push_back(static_cast<double>(step.step));
    series.y.push_back(value(step));
  }
  return series;
}

// What steps on pairs of answers say of them.
std::string pair_curves(const TrainReport& report) {
  const auto plot = [](const char* title, const char* description, const char* label,
                       std::vector<PlotSeries> series) {
    return picture({.title = title,
                    .description = description,
                    .x_label = "step",
                    .y_label = label,
                    .series = std::move(series)});
  };
  return plot("Reward margin", "Reward of the chosen answer over that of the rejected one, by step.",
              "reward", {curve(report, "", [](const TrainStep& s) { return s.preference->margin; })}) +
         plot("Accuracy", "Share of pairs whose chosen answer has the higher reward, by step.",
              "share of pairs",
              {curve(report, "", [](const TrainStep& s) { return s.preference->accuracy; })}) +
         plot("Log-probability of the answers",
              "Mean log-probability of chosen and rejected answers, by step.", "nats",
              {curve(report, "chosen", [](const TrainStep& s) { return s.preference->chosen; }),
               curve(report, "rejected", [](const TrainStep& s) { return s.preference->rejected; })});
}

std::string curves(const TrainReport& report) {
  const bool pairs = std::all_of(report.steps.begin(), report.steps.end(),
                                 [](const auto& s) { return s.preference.has_value(); });
  const char* unit = pairs ? "a pair" : "nats a token";
  Plot loss{.title = "Loss",
            .description = fmt::format("Loss, {}, by step.", unit),
            .x_label = "step",
            .y_label = unit,
            .series = {curve(report, "training", [](const TrainStep& s) { return s.loss; })}};
  for (const TrainReport::Losses& other : report.losses) {
    if (other.pairs != pairs) continue;  // another unit
    PlotSeries series;
    series.name = other.name;
    for (const auto& [step, value] : other.values) {
      series.x.push_back(static_cast<double>(step));
      series.y.push_back(value);
    }
    loss.series.push_back(std::move(series));
  }
  const auto one = [&](const char* title, const char* label,
                       const std::function<double(const TrainStep&)>& value) {
    return picture({.title = title,
                    .description = fmt::format("{}, by step.", title),
                    .x_label = "step",
                    .y_label = label,
                    .series = {curve(report, "", value)},
                    .y_from_zero = true});
  };
  return picture(loss) + (pairs ? pair_curves(report) : "") +
         one("Norm of the gradients before clipping", "norm",
             [](const TrainStep& s) { return s.grad_norm; }) +
         one("Learning rate", "rate", [](const TrainStep& s) { return s.learning_rate; }) +
         one("Tokens a second", "tokens/s",
             [](const TrainStep& s) { return static_cast<double>(s.rows) / std::max(s.seconds, 1e-9); });
}

std::string losses_table(const TrainReport& report) {
  std::string rows;
  for (const TrainReport::Losses& other : report.losses) {
    if (other.values.empty()) continue;
    const double before = other.values.front().second,
                 after = other.of_adapter.value_or(other.values.back().second);
    const auto perplexity = [&](double mean) {
      return other.pairs ? std::string() : fmt::format("{:.2f}", std::exp(mean));
    };
    rows += fmt::format("<tr><td>{}</td><td>{:.4f}</td><td>{:.4f}</td><td>{}</td><td>{}</td></tr>\n",
                        svg_escaped(other.name), before, after, perplexity(before), perplexity(after));
  }
  if (rows.empty()) return "";
  return "<figure class=\"wide\"><h2>Texts that are not trained on</h2><table><tr><th>text</th><th>loss "
         "before</th><th>after</th><th>perplexity before</th><th>after</th></tr>\n" +
         rows + "</table></figure>\n";
}

std::string samples(const TrainReport& report) {
  std::string page;
  for (const TrainReport::Sample& sample : report.samples)
    page += fmt::format(
        "<figure class=\"wide\"><h2>Continued: "
        "{}</h2><h3>Before</h3><p>{}</p><h3>After</h3><p>{}</p></figure>\n",
        svg_escaped(sample.prompt), svg_escaped(sample.before), svg_escaped(sample.after));
  return page;
}

}  // namespace

std::string train_page(const TrainReport& report) {
  std::string facts;
  for (const auto& [name, value] : report.facts)
    facts += fmt::format("<p>{}: {}</p>\n", svg_escaped(name), svg_escaped(value));
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "img-src data:\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" "
      "href=\"data:,\">\n<title>nfloat: training of an "
      "adapter</title>\n<style>\n{}</style>\n</head>\n<body>\n"
      "<header>\n<p class=\"brand\">nfloat</p>\n<h1>What {} learned</h1>\n<p id=\"subtitle\">from "
      "{}</p>\n</header>\n<main>\n<section id=\"answer\">\n{}</section>\n<section "
      "id=\"figures\">\n{}{}{}</section>\n</main>\n</body>\n</html>\n",
      embedded::page_css, svg_escaped(report.model), svg_escaped(report.data), facts, curves(report),
      losses_table(report), samples(report));
}

}  // namespace nfloat
