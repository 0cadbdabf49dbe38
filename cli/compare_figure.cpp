// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "compare_job.h"
#include "nfloat/plot.h"

namespace nfloat::cli {

std::string comparison_figure(const Comparison& comparison) {
  BarChart chart;
  chart.title = fmt::format("What a number format costs: {}", comparison.model);
  chart.note = fmt::format("{} tokens of {}; perplexity of the plain model {:.3f}; shorter is better",
                           comparison.tokens, comparison.text_name, comparison.reference.perplexity);
  chart.groups = {"NF4, absmax scales", "NF4, scales of least squared error", "other formats"};
  chart.panels = {{"squared error of the weights / variance", 5}, {"perplexity above the plain model, %", 2}};
  for (const FormatMeasurement& m : comparison.measurements) {
    if (!m.refused.empty()) continue;
    const TensorError total = m.total();
    const bool searched =
        m.name.find("search") != std::string::npos || m.name.find("signed") != std::string::npos;
    // Within the noise a format can come out better than the original: no bar then.
    const double above = 100 * (m.divergence.model.perplexity / comparison.reference.perplexity - 1);
    chart.rows.push_back({fmt::format("{}, {:.2f} bits", m.name, m.bits_per_weight),
                          {total.squared_error / total.squared_original, std::max(0.0, above)},
                          m.name.rfind("nf4", 0) != 0 ? 2u
                          : searched                  ? 1u
                                                      : 0u});
  }
  std::stable_sort(chart.rows.begin(), chart.rows.end(),
                   [](const auto& a, const auto& b) { return a.values[1] < b.values[1]; });
  chart.description = "Bars, least perplexity first:";
  for (const BarChart::Row& row : chart.rows)
    chart.description +=
        fmt::format(" {}: error {:.5f}, perplexity +{:.2f} %;", row.name, row.values[0], row.values[1]);
  chart.description.back() = '.';
  return chart.to_svg();
}

}  // namespace nfloat::cli
