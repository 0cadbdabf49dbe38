// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "nfloat/compare.h"

namespace nfloat {
namespace {

double kl(const FormatMeasurement& m) {
  return m.divergence.mean_kl;
}

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t i = 0; i < order.size(); ++i) ranks[order[i]] = static_cast<double>(i);
  return ranks;
}

}  // namespace

std::vector<bool> pareto_front(std::span<const double> size, std::span<const double> loss) {
  std::vector<bool> front(size.size(), true);
  for (size_t i = 0; i < size.size(); ++i) {
    for (size_t j = 0; j < size.size() && front[i]; ++j) {
      const bool no_worse = size[j] <= size[i] && loss[j] <= loss[i];
      front[i] = !(no_worse && (size[j] < size[i] || loss[j] < loss[i]));
    }
  }
  return front;
}

Choice choose_format(std::span<const FormatMeasurement> measurements, const ChoiceOptions& options) {
  std::vector<int> run, allowed, out_of_reach;
  std::vector<double> sizes, losses;
  for (size_t i = 0; i < measurements.size(); ++i) {
    const FormatMeasurement& m = measurements[i];
    if (!m.refused.empty()) continue;
    const bool obtainable = !options.obtainable || options.obtainable(m);
    if (obtainable) {
      run.push_back(static_cast<int>(i));
      sizes.push_back(static_cast<double>(m.model_bytes));
      losses.push_back(kl(m));
    }
    const bool unlimited = options.budget_bytes <= 0 && options.max_divergence <= 0;
    if (unlimited && m.bits_per_weight > options.max_bits_per_weight) continue;
    if (options.budget_bytes > 0 && static_cast<double>(m.model_bytes) > options.budget_bytes) continue;
    if (options.max_divergence > 0 && kl(m) > options.max_divergence) continue;
    (obtainable ? allowed : out_of_reach).push_back(static_cast<int>(i));
  }
  Choice choice;
  const auto at = [&](int i) -> const FormatMeasurement& { return measurements[static_cast<size_t>(i)]; };
  const bool by_size = options.max_divergence > 0 && options.budget_bytes <= 0;
  const auto before = [&](int a, int b) {
    if (by_size && at(a).model_bytes != at(b).model_bytes) return at(a).model_bytes < at(b).model_bytes;
    return kl(at(a)) < kl(at(b));
  };
  std::sort(allowed.begin(), allowed.end(), before);
  const auto first = std::min_element(out_of_reach.begin(), out_of_reach.end(), before);
  if (first != out_of_reach.end() && (allowed.empty() || before(*first, allowed[0])))
    choice.out_of_reach = *first;
  if (allowed.empty()) return choice;
  choice.best = allowed[0];
  if (allowed.size() > 1) {
    choice.runner_up = allowed[1];
    const DivergenceResult &a = at(allowed[0]).divergence, &b = at(allowed[1]).divergence;
    choice.separable = std::fabs(a.mean_kl - b.mean_kl) > 2 * std::hypot(a.mean_kl_error, b.mean_kl_error);
  }
  const std::vector<bool> front = pareto_front(sizes, losses);
  for (size_t i = 0; i < run.size(); ++i) {
    if (!front[i] || run[i] == choice.best) continue;
    const FormatMeasurement &own = at(choice.best), &other = at(run[i]);
    if (other.model_bytes < own.model_bytes &&
        (choice.smaller < 0 || other.model_bytes > at(choice.smaller).model_bytes))
      choice.smaller = run[i];
    if (kl(other) < kl(own) && (choice.better < 0 || kl(other) > kl(at(choice.better))))
      choice.better = run[i];
  }
  return choice;
}

RankAgreement rank_agreement(std::span<const FormatMeasurement> measurements) {
  RankAgreement agreement;
  std::vector<double> halves[2];
  std::vector<int> run;
  for (size_t i = 0; i < measurements.size(); ++i) {
    if (!measurements[i].refused.empty()) continue;
    run.push_back(static_cast<int>(i));
    for (size_t half = 0; half < 2; ++half) halves[half].push_back(measurements[i].half_kl[half]);
  }
  const size_t count = run.size();
  if (count < 2) return agreement;
  const std::vector<double> first = ranks(halves[0]), second = ranks(halves[1]);
  double squares = 0;
  for (size_t i = 0; i < count; ++i) {
    squares += (first[i] - second[i]) * (first[i] - second[i]);
    for (size_t j = i + 1; j < count; ++j) {
      ++agreement.pairs;
      if ((first[i] < first[j]) != (second[i] < second[j])) agreement.swapped.push_back({run[i], run[j]});
    }
  }
  const auto n = static_cast<double>(count);
  agreement.spearman = 1 - 6 * squares / (n * (n * n - 1));
  return agreement;
}

}  // namespace nfloat
