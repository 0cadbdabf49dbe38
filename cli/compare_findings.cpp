// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "compare_job.h"
#include "model_options.h"
#include "nfloat/text.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {

std::string comparison_table(const Comparison& c) {
  using Align = Table::Align;
  Table table({{"", Align::kLeft},
               {"format", Align::kLeft},
               {"bits/w"},
               {"model"},
               {"SQNR dB"},
               {"zeros kept"},
               {"perplexity"},
               {"KL mean"},
               {"+-"},
               {"99 %"},
               {"max"},
               {"same top"},
               {"coding Mw/s"},
               {"tokens/s"}});
  table.add(
      {"", "plain", "", format_bytes(c.plain_bytes), "", "", fmt::format("{:.3f}", c.reference.perplexity)});
  table.add_rule();
  for (size_t i = 0; i < c.measurements.size(); ++i) {
    const FormatMeasurement& m = c.measurements[i];
    if (!m.refused.empty()) continue;
    const TensorError total = m.total();
    const DivergenceResult& d = m.divergence;
    table.add({c.front[i] ? "*" : "", m.name, fmt::format("{:.3f}", m.bits_per_weight),
               format_bytes(m.model_bytes), fmt::format("{:.2f}", total.sqnr_db()),
               total.zeros == 0 ? "none there"
                                : fmt::format("{:.1f} %", 100 * static_cast<double>(total.zeros_kept) /
                                                              static_cast<double>(total.zeros)),
               fmt::format("{:.3f}", d.model.perplexity), fmt::format("{:.5f}", d.mean_kl),
               fmt::format("{:.5f}", d.mean_kl_error), fmt::format("{:.4f}", d.kl_99),
               fmt::format("{:.3f}", d.max_kl), fmt::format("{:.2f} %", 100 * d.same_top),
               fmt::format("{:.1f}", static_cast<double>(m.weights) / m.coding_seconds / 1e6),
               m.tokens_per_second > 0 ? fmt::format("{:.0f}", m.tokens_per_second) : "-"});
  }
  return table.to_string();
}

std::string task_table(const Comparison& c) {
  if (c.plain_tasks.empty()) return "";
  std::vector<Table::Column> columns = {{"tasks: accuracy", Table::Align::kLeft}};
  std::vector<std::string> chance = {"by guessing"};
  for (const TaskResult& task : c.plain_tasks) {
    columns.push_back({fmt::format("{} ({})", task.name, task.questions)});
    chance.push_back(fmt::format("{:.2f} %", 100 * task.chance));
    if (!task.normalised_accuracy) continue;
    columns.push_back({"by length"});
    chance.push_back("");
  }
  Table table(std::move(columns));
  const auto add = [&](const std::string& name, const std::vector<TaskResult>& results) {
    std::vector<std::string> cells = {name};
    for (const TaskResult& r : results) {
      cells.push_back(fmt::format("{:.2f} +- {:.2f} %", 100 * r.accuracy, 100 * r.accuracy_error));
      if (r.normalised_accuracy) cells.push_back(fmt::format("{:.2f} %", 100 * *r.normalised_accuracy));
    }
    table.add(std::move(cells));
  };
  table.add(chance);
  add("plain", c.plain_tasks);
  table.add_rule();
  for (const FormatMeasurement& m : c.measurements)
    if (m.refused.empty()) add(m.name, m.tasks);
  return table.to_string();
}

void print_comparison(const Comparison& result) {
  fmt::print("\n{}, {} tokens of {}, protocol {}, windows of {}, {} arithmetic{}\n", one_line(result.model),
             result.tokens, one_line(result.text_name), result.protocol, result.context, result.precision,
             result.device.empty() || result.device == "cpu" ? "" : " on " + device_text(result.device));
  fmt::print(
      "* on the Pareto front: no format is as small with less divergence, or smaller with as little\n\n");
  fmt::print("{}\n", comparison_table(result));
  if (!result.plain_tasks.empty()) fmt::print("{}\n", task_table(result));
  for (const std::string& line : comparison_findings(result)) fmt::print("{}\n", line);
  note("{} in {:.0f} s\n", count_of(static_cast<int64_t>(result.measurements.size()), "format"),
       result.seconds);
}

}  // namespace nfloat::cli
