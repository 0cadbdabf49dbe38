// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <numbers>

#include "base/json.h"
#include "codebook_command.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "nfloat/plot.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {
namespace {

// Where a function with one valley in [low, high] is least, by golden sections. For NF4's errors good to
// 1e-4: the float32 rounding of the levels makes the valley's bottom rough below that.
double minimise(double low, double high, const std::function<double(double)>& function) {
  const double golden = 2 - std::numbers::phi;
  double a = low + golden * (high - low), b = high - golden * (high - low);
  double at_a = function(a), at_b = function(b);
  while (high - low > 1e-7) {
    if (at_a < at_b) {
      high = b;
      b = a;
      at_b = at_a;
      a = low + golden * (high - low);
      at_a = function(a);
    } else {
      low = a;
      a = b;
      at_a = at_b;
      b = high - golden * (high - low);
      at_b = function(b);
    }
  }
  return (low + high) / 2;
}

constexpr double kLowestOffset = 0.90, kHighestOffset = 0.995;
constexpr int kSweepPoints = 96;
constexpr double kSweepHighest =
    1.1;  // of error over least error: beyond it the picture would only show the walls

double drawn(double ratio) {
  return ratio <= kSweepHighest ? ratio : std::nan("");
}

CodebookErrors errors_at(double offset, int64_t block_size) {
  return codebook_errors(make_normal_float(4, offset), block_size);
}

double best_offset(int64_t block_size, bool absolute) {
  return minimise(kLowestOffset, kHighestOffset, [&](double offset) {
    const CodebookErrors errors = errors_at(offset, block_size);
    return absolute ? errors.mae : errors.mse;
  });
}

}  // namespace

void sweep_offset(const CodebookOptions& options) {
  Json json;
  json["nf4_offset"] = kNormalFloatOffset;
  json["block_sizes"] = Json::array();
  Table best({{"block"},
              {"best for absolute error"},
              {"its error"},
              {"at 929/960"},
              {"best for squared error"},
              {"its error"},
              {"at 929/960"}});
  Plot plot;
  plot.title = "NF4's error against its offset, relative to the best offset";
  plot.description =
      "Mean absolute and mean squared error of NF4 on normal weights against the largest probability, by "
      "block size; "
      "929/960 is where the absolute error at block size 64 is least.";
  plot.x_label = "offset (largest probability); NF4: 929/960 = 0.96771";
  plot.y_label = "error over least error";
  plot.series.push_back({"NF4: 929/960", {kNormalFloatOffset, kNormalFloatOffset}, {1, kSweepHighest}});
  int colour = 0;
  for (int64_t block_size : options.block_sizes) {
    const double absolute = best_offset(block_size, true), squared = best_offset(block_size, false);
    const double least_absolute = errors_at(absolute, block_size).mae,
                 least_squared = errors_at(squared, block_size).mse;
    const CodebookErrors at_nf4 = errors_at(kNormalFloatOffset, block_size);
    best.add({fmt::format("{}", block_size), fmt::format("{:.4f}", absolute),
              fmt::format("{:.8f}", least_absolute),
              fmt::format("{:+.4f} %", 100 * (at_nf4.mae / least_absolute - 1)),
              fmt::format("{:.4f}", squared), fmt::format("{:.8f}", least_squared),
              fmt::format("{:+.4f} %", 100 * (at_nf4.mse / least_squared - 1))});
    PlotSeries mae{fmt::format("absolute, blocks of {}", block_size), {}, {}},
        mse{fmt::format("squared, blocks of {}", block_size), {}, {}};
    mae.colour = mse.colour = ++colour;
    mse.dashed = true;
    Json points = Json::array();
    for (int i = 0; i < kSweepPoints; ++i) {
      const double offset = kLowestOffset + (kHighestOffset - kLowestOffset) * i / (kSweepPoints - 1);
      const CodebookErrors errors = errors_at(offset, block_size);
      mae.x.push_back(offset);
      mae.y.push_back(drawn(errors.mae / least_absolute));
      mse.x.push_back(offset);
      mse.y.push_back(drawn(errors.mse / least_squared));
      points.push_back({{"offset", offset}, {"mae", errors.mae}, {"mse", errors.mse}});
    }
    plot.series.push_back(std::move(mae));
    plot.series.push_back(std::move(mse));
    json["block_sizes"].push_back({{"block_size", block_size},
                                   {"best_offset_absolute", absolute},
                                   {"least_mae", least_absolute},
                                   {"mae_at_nf4", at_nf4.mae},
                                   {"best_offset_squared", squared},
                                   {"least_mse", least_squared},
                                   {"mse_at_nf4", at_nf4.mse},
                                   {"points", points}});
  }
  if (options.json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("NF4 with other offsets, normal weights. NF4's own is 929/960 = {:.8f}.\n\n{}",
               kNormalFloatOffset, best.to_string());
  }
  if (!options.plot.empty()) write_result_file(options.plot, plot.to_svg(860, 440));
}

void plot_levels(const CodebookOptions& options, const std::vector<std::string>& names) {
  const int64_t block_size = options.block_sizes.front();
  const double scale = expected_block_maximum(block_size);
  const auto density = [](double z) { return std::exp(-z * z / 2) / std::sqrt(2 * std::numbers::pi); };
  Plot plot;
  plot.title = names.size() == 1 ? fmt::format("The levels of {} on the normal density", names.front())
                                 : "Levels on the normal density";
  plot.description = fmt::format(
      "Density of normal weights, and the levels of the code times the expected largest weight of a block of "
      "{}.",
      block_size);
  plot.x_label = fmt::format(
      "weight, in standard deviations (blocks of {}: the largest is {:.2f} on average)", block_size, scale);
  plot.y_label = "density";
  PlotSeries curve{"", {}, {}};
  for (int i = 0; i <= 240; ++i) {
    const double z = -3.2 + 6.4 * i / 240;
    curve.x.push_back(z);
    curve.y.push_back(density(z));
  }
  plot.series.push_back(std::move(curve));
  for (const std::string& name : names) {
    const Codebook codebook = chosen_codebook(options, name, block_size);
    PlotSeries stems{codebook.name, {}, {}, PlotSeries::Style::kStems};
    for (float level : codebook.levels) {
      const double z = scale * static_cast<double>(level);
      stems.x.push_back(z);
      stems.y.push_back(density(z));
    }
    plot.series.push_back(std::move(stems));
  }
  write_result_file(options.plot, plot.to_svg());
}

void explain(const CodebookOptions& options) {
  const int64_t block_size = options.block_sizes.front();
  const Codebook nf4 = make_codebook("nf4"), paper = make_codebook("nf4-paper"),
                 symmetric = make_codebook("nf4-symmetric");
  const CodebookErrors e_nf4 = codebook_errors(nf4, block_size), e_paper = codebook_errors(paper, block_size),
                       e_symmetric = codebook_errors(symmetric, block_size);
  fmt::print(
      "Where NF4's sixteen numbers come from\n\n"
      "1. Weights of a trained network look normal with mean zero. A block of them is divided by its largest "
      "magnitude, so\n"
      "   sixteen levels between -1 and 1 serve every block. NF4 takes them from Q, the quantile function of "
      "the normal\n"
      "   distribution: equally spaced PROBABILITIES, not equally spaced z-scores.\n\n"
      "2. The positive levels are Q at eight probabilities in equal steps from 929/960 down to 1/2 (1/2 "
      "itself left out), the\n"
      "   negative ones minus Q at seven. All are divided by the largest, Q(929/960) = {:.6f}:\n\n",
      normal_quantile(kNormalFloatOffset));
  Table table({{"code"}, {"probability"}, {"Q"}, {"level"}});
  for (int i = 0; i < 16; ++i) {
    const int steps = i < 7 ? 7 : 8;
    const int step = i < 7 ? i : 15 - i;
    const double p = i == 7 ? 0.5 : kNormalFloatOffset + (0.5 - kNormalFloatOffset) * step / steps;
    const double q = i == 7 ? 0 : (i < 7 ? -1 : 1) * normal_quantile(p);
    table.add({fmt::format("{}", i), i < 7 ? fmt::format("1 - {:.6f}", p) : fmt::format("{:.6f}", p),
               fmt::format("{:+.6f}", q), fmt::format("{:+.7f}", nf4.exact[static_cast<size_t>(i)])});
  }
  fmt::print("{}\n", table.to_string(3));
  fmt::print(
      "3. Zero is a level because padding and pruned weights are exactly zero and should stay so. It is not "
      "free: without a\n"
      "   zero (nf4-symmetric) the squared error on normal weights in blocks of {} is {:.6f}, with it "
      "{:.6f}. Published\n"
      "   perplexities are better with the zero all the same (arXiv 2505.06653, Table 5).\n\n",
      block_size, e_symmetric.mse, e_nf4.mse);
  fmt::print(
      "4. Why not probability 1? Q(1) is infinite. With sixteen equal bins on the line the outermost level "
      "sits half a bin\n"
      "   from the end, at 1 - 1/32; with fifteen, at 1 - 1/30. NF4 has eight levels on one side and seven "
      "on the other, and\n"
      "   its offset is the mean of the two: 929/960 = {:.10f}. bitsandbytes writes 0.9677083.\n\n",
      kNormalFloatOffset);
  const double absolute = best_offset(block_size, true), squared = best_offset(block_size, false);
  fmt::print(
      "5. What it optimises: in blocks of {} the mean absolute error is least at offset {:.4f}, and 929/960 "
      "is {:.4f} % above\n"
      "   that least error{}. The mean squared error is least at {:.4f}, and 929/960 is {:.2f} % above it.\n"
      "   --sweep-offset shows other block sizes.\n\n",
      block_size, absolute, 100 * (e_nf4.mae / errors_at(absolute, block_size).mae - 1),
      block_size == 64 ? ": as good as optimal" : " (blocks of 64 are where it is as good as optimal)",
      squared, 100 * (e_nf4.mse / errors_at(squared, block_size).mse - 1));
  fmt::print(
      "6. The paper's equation (4), q_i = (Q(i/17) + Q((i+1)/17)) / 2, does not give the paper's table: its "
      "first and last value\n"
      "   are infinite, and the {} finite ones are symmetric, with a squared error {:.1f} % above NF4's "
      "(nf4-paper).\n\n",
      paper.levels.size(), 100 * (e_paper.mse / e_nf4.mse - 1));
  double widest = 0;
  for (size_t i = 0; i < 16; ++i)
    widest = std::max(widest, std::fabs(nf4.exact[i] - static_cast<double>(nf4.levels[i])));
  fmt::print(
      "7. bitsandbytes spaces the probabilities in float32, which moves the levels by up to {:.3g}. nfloat "
      "repeats that\n"
      "   arithmetic, so the sixteen constants agree bit for bit (nfloat codebook nf4 shows the distance in "
      "ulp).\n",
      widest);
}

}  // namespace nfloat::cli
