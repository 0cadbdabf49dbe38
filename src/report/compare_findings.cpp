// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "nfloat/comparison.h"
#include "nfloat/text.h"
#include "report/score_documents.h"

namespace nfloat {
namespace {

// "4.13 bits a weight, 4.7 MB, mean KL 0.0123 nats, perplexity 28.31 (+0.8 %)"
std::string in_numbers(const Comparison& c, const FormatMeasurement& m) {
  return fmt::format(
      "{:.3f} bits a weight, model {}, mean KL {:.3g} +- {:.1g} nats, perplexity {:.3f} ({:+.2f} %)",
      m.bits_per_weight, format_bytes(m.model_bytes), m.divergence.mean_kl, m.divergence.mean_kl_error,
      m.divergence.model.perplexity, 100 * (m.divergence.model.perplexity / c.reference.perplexity - 1));
}

// What the reader takes, in the words of a sentence.
std::string takes(Reader reader) {
  return reader == Reader::kNfloat ? "that nfloat writes and runs"
                                   : fmt::format("that nfloat writes and {} reads", reader_name(reader));
}

}  // namespace

void judge(Comparison& c) {
  ChoiceOptions limits = c.limits;
  limits.obtainable = [&](const FormatMeasurement& m) {
    return !how_to_make(c.model, m.name, c.reader).empty();
  };
  c.choice = choose_format(c.measurements, limits);
  c.agreement = rank_agreement(c.measurements);
  std::vector<double> sizes, losses;
  for (const FormatMeasurement& m : c.measurements) {
    if (!m.refused.empty()) continue;
    sizes.push_back(static_cast<double>(m.model_bytes));
    losses.push_back(m.divergence.mean_kl);
  }
  const std::vector<bool> front = pareto_front(sizes, losses);
  c.front.clear();
  size_t next = 0;
  for (const FormatMeasurement& m : c.measurements) c.front.push_back(m.refused.empty() && front[next++]);
}

std::vector<std::string> comparison_findings(const Comparison& c) {
  std::vector<std::string> lines;
  if (!c.adapters.empty()) {
    std::string adapters;
    for (const AdapterChoice& adapter : c.adapters)
      adapters += (adapters.empty() ? "" : " and ") + adapter.folder +
                  (adapter.weight == 1 ? "" : fmt::format(" times {:g}", adapter.weight));
    lines.push_back(
        fmt::format("With {} beside the base: the formats are of the base, the plain model that they are "
                    "compared with has the same beside it, sizes are without.",
                    adapters));
    for (const std::string& note : c.adapter_notes) lines.push_back(fmt::format("Warning: {}.", note));
  }
  const Choice& choice = c.choice;
  std::string limits;
  if (c.limits.budget_bytes > 0)
    limits = fmt::format("within {}", format_bytes(static_cast<uint64_t>(c.limits.budget_bytes)));
  if (c.limits.max_divergence > 0)
    limits += fmt::format("{}a mean KL of at most {:g}", limits.empty() ? "with " : " and with ",
                          c.limits.max_divergence);
  if (limits.empty()) limits = fmt::format("of at most {:g} bits a weight", c.limits.max_bits_per_weight);
  if (choice.best < 0) {
    lines.push_back(fmt::format("Recommendation: none. No format {} {} was found.", takes(c.reader), limits));
  } else {
    const FormatMeasurement& best = measurement_at(c, choice.best);
    const bool smallest = c.limits.max_divergence > 0 && c.limits.budget_bytes <= 0;
    lines.push_back(fmt::format("Recommendation: {}, the {} {} {}: {}.", best.name,
                                smallest ? "smallest format" : "least divergence among the formats",
                                takes(c.reader), limits, in_numbers(c, best)));
    lines.push_back("To make it: " + how_to_make(c.model, best.name, c.reader, c.calibration));
    if (choice.runner_up >= 0)
      lines.push_back(fmt::format(
          "Next to it: {}, {}; {}.", measurement_at(c, choice.runner_up).name,
          in_numbers(c, measurement_at(c, choice.runner_up)),
          choice.separable ? "the difference in mean KL is more than two standard errors"
                           : "this text is too short to tell the two apart (less than two standard errors)"));
    if (choice.smaller >= 0)
      lines.push_back(fmt::format("A model below {} would change it: then {}, {}.",
                                  format_bytes(best.model_bytes), measurement_at(c, choice.smaller).name,
                                  in_numbers(c, measurement_at(c, choice.smaller))));
    if (choice.better >= 0)
      lines.push_back(fmt::format("So would a mean KL below {:.3g}: then {}, {}.", best.divergence.mean_kl,
                                  measurement_at(c, choice.better).name,
                                  in_numbers(c, measurement_at(c, choice.better))));
  }
  if (choice.out_of_reach >= 0)
    lines.push_back(
        fmt::format("{}, but not to be had for {}: {}, {}.",
                    c.limits.max_divergence > 0 && c.limits.budget_bytes <= 0 ? "Smaller" : "Less divergence",
                    reader_name(c.reader), measurement_at(c, choice.out_of_reach).name,
                    in_numbers(c, measurement_at(c, choice.out_of_reach))));
  if (c.agreement.pairs > 0) {
    std::string pairs;
    for (size_t i = 0; i < c.agreement.swapped.size() && i < 4; ++i)
      pairs +=
          fmt::format("{}{} and {}", i == 0 ? ": " : ", ", measurement_at(c, c.agreement.swapped[i][0]).name,
                      measurement_at(c, c.agreement.swapped[i][1]).name);
    lines.push_back(
        fmt::format("The ranking by mean KL over two halves of the text: rank correlation {:.4f}, {} of {} "
                    "pairs in another "
                    "order{}{}.",
                    c.agreement.spearman, c.agreement.swapped.size(), c.agreement.pairs, pairs,
                    c.agreement.swapped.size() > 4 ? ", ..." : ""));
  }
  std::string guessed;
  for (const TaskResult& task : c.plain_tasks)
    if (task.low <= task.chance) guessed += (guessed.empty() ? "" : ", ") + task.name;
  if (!guessed.empty())
    lines.push_back(fmt::format(
        "On {} the plain model itself is not above chance: its accuracy tells nothing about formats.",
        guessed));
  for (const FormatMeasurement& m : c.measurements)
    if (!m.refused.empty()) lines.push_back(fmt::format("Left out: {}: {}.", m.name, m.refused));
  return lines;
}

}  // namespace nfloat
