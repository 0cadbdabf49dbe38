// SPDX-License-Identifier: Apache-2.0
#include "nfloat/analyze.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "commands.h"
#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "nfloat/results.h"
#include "notes.h"
#include "progress.h"
#include "table.h"

namespace nfloat::cli {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> codes = analyzed_codes(), only, skip;
  int64_t block_size = 64, error_sample = 262144;
  int threads = 0;
  bool json = false;
};

// Bitsandbytes quantizes [out, in]; GPT-2 stores [in, out].
std::vector<float> transposed(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements())), turned(values.size());
  convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
  const auto rows = static_cast<size_t>(view.shape.dims()[0]),
             cols = static_cast<size_t>(view.shape.dims()[1]);
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < cols; ++j) turned[j * rows + i] = values[i * cols + j];
  return turned;
}

class Analysis {
 public:
  explicit Analysis(const Options& options) : input_(resolve_model_path(options.path)) {
    QuantizeCheckpointOptions select;
    select.only = options.only;
    select.skip = options.skip;
    for (TensorPlan& tensor : plan_quantization(input_, select).tensors)
      if (tensor.quantize) plan_.push_back(std::move(tensor));
    if (plan_.empty())
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: no tensor that would be quantized", options.path));
    for (const std::string& name : options.codes) {
      codes_.push_back(make_codebook(name, options.block_size));
      if (codes_.back().levels.size() > 16)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} has {} levels: codes of at most 16 can be analyzed", name,
                                codes_.back().levels.size()));
    }
    library_.block_size = options.block_size;
    library_.error_sample = options.error_sample;
    library_.threads = options.threads;
  }

  void run() {
    ProgressBar bar("analyze", "GB");
    uint64_t total = 0;
    for (const TensorPlan& tensor : plan_) total += tensor.input.bytes;
    const auto start = std::chrono::steady_clock::now();
    for (const TensorPlan& tensor : plan_) {
      if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while analyzing");
      bar.update(bytes, total, tensor.input.name);
      try {
        rows.push_back(analyze(tensor));
      } catch (const Error& error) {
        throw Error(error.code(), fmt::format("{}: {}: {}", input_.files()[tensor.input.file],
                                              tensor.input.name, error.what()));
      }
      bytes += tensor.input.bytes;
    }
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bar.finish();
  }

  std::vector<AnalyzedWeight> rows;
  uint64_t bytes = 0;
  double seconds = 0;

 private:
  AnalyzedWeight analyze(const TensorPlan& tensor) const {
    TensorView view = input_.view(tensor.input);
    std::vector<float> turned;
    if (tensor.transpose) {
      turned = transposed(view);
      view = {DType::kF32, Shape{view.elements()}, std::as_bytes(std::span(turned))};
    }
    AnalyzedWeight row{tensor.input.name, tensor.input.shape, analyze_weights(view, library_), {}};
    row.codes = analyze_codes(view, row.statistics, codes_, library_);
    input_.release(input_.view(tensor.input));
    return row;
  }

  Checkpoint input_;
  std::vector<TensorPlan> plan_;
  std::vector<Codebook> codes_;
  AnalyzeOptions library_;
};

std::string degrees(double value) {
  return value >= 200 ? ">200" : fmt::format("{:.1f}", value);
}
std::string fit_name(const PredictingFit& fit) {
  return fmt::format("{}{}{}",
                     fit.source.kind == SourceDistribution::Kind::kNormal
                         ? "normal"
                         : fmt::format("t({:.1f})", fit.source.degrees_of_freedom),
                     fit.within_blocks ? " in block" : "", fit.accepted ? "" : ", rejected");
}

std::vector<std::string> distribution_cells(const AnalyzedWeight& row, bool total) {
  const WeightStatistics& s = row.statistics;
  const double d = s.deviation > 0 ? s.deviation : 1;
  std::vector<std::string> cells = {row.name,
                                    total ? fmt::format("{}", s.elements) : row.shape.to_string(),
                                    fmt::format("{:.1e}", s.mean),
                                    fmt::format("{:.5f}", s.deviation),
                                    fmt::format("{:.2f}", s.skew),
                                    fmt::format("{:.2f}", s.plain.excess_kurtosis),
                                    fmt::format("{:.1f}", s.absmax / d),
                                    s.outlier_share > 0 ? fmt::format("{:.1e}", s.outlier_share) : "0",
                                    fmt::format("{}", s.zeros)};
  if (total) return cells;
  for (const DistributionStatistics* from : {&s.plain, &s.normalised}) {
    cells.push_back(fmt::format("{:.3f}{}", from->normal_distance, from->normal_accepted() ? "" : " *"));
    cells.push_back(degrees(from->student.degrees_of_freedom));
    cells.push_back(fmt::format("{:.3f}{}", from->student.distance, from->student_accepted() ? "" : " *"));
  }
  return cells;
}

std::vector<std::string> code_cells(const AnalyzedWeight& row, bool total) {
  std::vector<std::string> cells = {row.name, total ? "" : fit_name(row.codes.fit)};
  for (const CodeError& code : row.codes.codes) {
    cells.push_back(fmt::format("{:.5f} {:+5.1f}", code.measured,
                                code.measured > 0 ? 100 * (code.predicted / code.measured - 1) : 0));
  }
  cells.push_back(fmt::format("{:.5f}", row.codes.signed_nf4));
  cells.push_back(row.codes.best().code);
  cells.push_back(fmt::format("{:.4f}", row.codes.best_offset.offset));
  return cells;
}

void print_tables(const Options& options, const std::vector<AnalyzedWeight>& rows) {
  using Align = Table::Align;
  const AnalyzedWeight total = analysis_total(rows);
  Table weights({{"tensor", Align::kLeft},
                 {"shape"},
                 {"mean"},
                 {"deviation"},
                 {"skew"},
                 {"kurtosis-3"},
                 {"max/dev"},
                 {"outliers"},
                 {"zeros"},
                 {"KS n"},
                 {"t dof"},
                 {"KS t"},
                 {"block: KS n"},
                 {"t dof"},
                 {"KS t"}});
  std::vector<Table::Column> columns = {{"tensor", Align::kLeft}, {"fit that predicts", Align::kLeft}};
  for (const std::string& code : options.codes) columns.push_back({code + "  fit %"});
  for (const char* title : {"nf4 signed", "best", "best offset"}) columns.push_back({title});
  Table codes(columns);
  for (const AnalyzedWeight& row : rows) {
    weights.add(distribution_cells(row, false));
    codes.add(code_cells(row, false));
  }
  weights.add_rule();
  codes.add_rule();
  weights.add(distribution_cells(total, true));
  codes.add(code_cells(total, true));
  fmt::print(
      "The weights. outliers: share beyond 6 deviations (2e-9 of normal ones). KS n, KS t: "
      "Kolmogorov-Smirnov\n"
      "distance to the normal distribution and to the Student t that fits best (t dof: its degrees of "
      "freedom),\n"
      "on {} weights, * where rejected at 1 %; block: the same for weights over the root mean square of "
      "their\n"
      "block of {}.\n\n{}\n",
      AnalyzeOptions{}.sample, options.block_size, weights.to_string());
  fmt::print(
      "What codes cost with absmax scales: squared error over mean square, measured on {}, and by how many\n"
      "percent the error that the fit predicts differs. nf4 signed: scales of least squared error. best "
      "offset:\n"
      "NormalFloat's largest probability with the least error (NF4 has .9677).\n\n{}\n",
      options.error_sample > 0 ? fmt::format("{} weights of each tensor", options.error_sample)
                               : "all weights",
      codes.to_string());
  std::string outliers;
  size_t found = 0, accepted = 0;
  double worst = 0;
  for (const AnalyzedWeight& row : rows) {
    const WeightStatistics& s = row.statistics;
    if (s.has_outliers()) {
      ++found;
      outliers += fmt::format("  {}: largest {:.1f} deviations, {:.2e} of the weights beyond 6\n", row.name,
                              s.absmax / s.deviation, s.outlier_share);
    }
    if (!row.codes.fit.accepted) continue;
    ++accepted;
    for (const CodeError& code : row.codes.codes)
      worst = std::max(worst, std::fabs(code.predicted / code.measured - 1));
  }
  fmt::print("Outliers in {} of {}{}\n{}", found, count_of(std::ssize(rows), "tensor"),
             found == 0 ? "." : ":", outliers);
  fmt::print("A fit is accepted for {} of {}", accepted, count_of(std::ssize(rows), "tensor"));
  if (accepted > 0)
    fmt::print("; there the prediction is within {:.1f} % of the measured error", 100 * worst);
  const CodeError& best = total.codes.best();
  fmt::print(".\nLeast error of all weights with absmax scales: {} ({:.5f}).\n", best.code, best.measured);
}

void run(const Options& options) {
  catch_interrupts();
  Analysis analysis(options);
  analysis.run();
  if (options.json) {
    fmt::print("{}\n", analysis_json(options.path, analysis.rows, options.block_size, analysis.bytes,
                                     analysis.seconds));
    return;
  }
  print_tables(options, analysis.rows);
  note("{} in {:.1f} s, {:.2f} GB/s\n", format_bytes(analysis.bytes), analysis.seconds,
       static_cast<double>(analysis.bytes) / analysis.seconds / 1e9);
}

}  // namespace

void add_analyze_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("analyze", "Analyze the distribution of the weights, and which code suits them");
  command.footer(
      "Examples:\n"
      "  nfloat analyze models/nfloat-tiny\n"
      "  nfloat analyze ./Llama-3.2-1B --only 'layers\\.0\\.' --codes nf4,int4,sf4 --block-size 128\n"
      "Analyzes the tensors that nfloat quantize would quantize. Runs no model: nfloat compare does that.");
  command.add_option("MODEL", options->path, "Model folder, .safetensors file, or org/model in the cache")
      .required();
  command
      .add_option("--codes", options->codes, "Codes to try, separated by commas (nfloat codebook lists them)")
      .list();
  command.add_option("--block-size", options->block_size, "Weights that share a scale")
      .between(int64_t{16}, int64_t{1} << 30)
      .show_default();
  command
      .add_option("--error-sample", options->error_sample,
                  "Weights of each tensor to measure errors on, in blocks spread evenly; 0: all")
      .at_least_zero()
      .show_default();
  command.add_option("--only", options->only, "Only tensors whose name matches this regular expression");
  command.add_option("--skip", options->skip, "Leave out tensors whose name matches this regular expression");
  command.add_option("--threads", options->threads, "Threads; 0: all cores").between(0, 1024);
  command.add_flag("--json", options->json, "Print JSON");
  command.callback([options] { run(*options); });
}

}  // namespace nfloat::cli
