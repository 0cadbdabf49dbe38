// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <optional>

#include "commands.h"
#include "convert_options.h"
#include "inspect_gguf.h"
#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "nfloat/gguf.h"
#include "nfloat/results.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {
namespace {

constexpr size_t kWorstShown = 12;
constexpr size_t kMostOfAName = 200, kMostOfAType = 40;  // bytes shown of those that a file made up

struct Options {
  std::string path, original;
  bool check = false, all = false, json = false;
  int threads = 0;
};

double bits(uint64_t bytes, int64_t elements) {
  return elements > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

void print_weights(const Checkpoint& checkpoint, bool all) {
  struct Row {
    int64_t count = 0, elements = 0;
    uint64_t bytes = 0;
  };
  std::vector<std::array<std::string, 4>> order;
  std::map<std::array<std::string, 4>, Row> rows;
  Row total;
  const auto add = [&](const std::string& name, std::string_view dtype, const Shape& shape,
                       const std::string& layout, uint64_t bytes) {
    const std::array<std::string, 4> key = {all ? name : name_pattern(name), std::string(dtype),
                                            shape.to_string(), layout};
    Row& row = rows[key];
    if (row.count == 0) order.push_back(key);
    for (Row* sum : {&row, &total}) {
      ++sum->count;
      sum->elements += shape.elements();
      sum->bytes += bytes;
    }
  };
  for (const StoredWeight& weight : stored_weights(checkpoint))
    add(weight.name, dtype_name(weight.dtype), weight.shape, weight.layout, weight.bytes);
  for (const UnknownTensor& tensor : checkpoint.unknown())
    add(one_line(tensor.name, kMostOfAName), one_line(tensor.dtype, kMostOfAType), tensor.shape, "unknown",
        tensor.bytes);
  Table table({{"tensor", Table::Align::kLeft},
               {"count"},
               {"dtype", Table::Align::kLeft},
               {"shape"},
               {"layout", Table::Align::kLeft},
               {"bytes"},
               {"bits/weight"}});
  for (const auto& key : order) {
    const Row& row = rows[key];
    table.add({key[0], fmt::format("{}", row.count), key[1], key[2], key[3], format_bytes(row.bytes),
               fmt::format("{:.3f}", bits(row.bytes, row.elements))});
  }
  table.add_rule();
  table.add({count_of(total.elements, "parameter"), fmt::format("{}", total.count), "", "", "",
             format_bytes(total.bytes), fmt::format("{:.3f}", bits(total.bytes, total.elements))});
  fmt::print("{}", table.to_string());
}

bool print_findings(const std::vector<Finding>& findings) {
  size_t errors = 0;
  for (const Finding& finding : findings) errors += finding.error ? 1 : 0;
  std::map<std::pair<std::string, std::string>, size_t> repeated;
  for (const Finding& finding : findings) {
    // The same remark about every layer is one line.
    if (repeated[{name_pattern(finding.tensor), finding.text}]++ == 0 || finding.error) {
      fmt::print("{}: {}{}{}\n", finding.error ? "ERROR" : "note", printable(finding.tensor),
                 finding.tensor.empty() ? "" : ": ", printable(finding.text));
    }
  }
  for (const auto& [key, count] : repeated) {
    if (count > 1)
      fmt::print("      ({} tensors like {}: {:.60}...)\n", count, printable(key.first),
                 printable(key.second));
  }
  fmt::print("check: {}\n", errors == 0 ? "sound" : count_of(static_cast<int64_t>(errors), "error"));
  return errors == 0;
}

double relative_error(const TensorError& error) {
  return error.squared_original > 0 ? error.squared_error / error.squared_original : 0;
}

void print_errors(const std::vector<TensorError>& errors, bool all) {
  Table table({{"tensor, worst first", Table::Align::kLeft},
               {"weights"},
               {"SQNR dB"},
               {"error²/weight²"},
               {"largest error"},
               {"zeros kept"}});
  const auto add = [&](const TensorError& error) {
    const std::string zeros = error.zeros == 0 ? "-" : fmt::format("{}/{}", error.zeros_kept, error.zeros);
    if (!error.measurable()) {
      table.add(
          {error.name, fmt::format("{}", error.elements), "too large", "too large", "too large", zeros});
      return;
    }
    const double sqnr = error.sqnr_db();
    table.add({error.name, fmt::format("{}", error.elements),
               error.squared_error == 0 ? "exact" : fmt::format("{:.3f}", sqnr),
               fmt::format("{:.6f}", relative_error(error)), fmt::format("{:.3g}", error.max_error), zeros});
  };
  size_t inexact = 0;
  for (const TensorError& error : errors) inexact += error.squared_error == 0 ? 0 : 1;
  const size_t shown = all ? errors.size() : std::min(inexact, kWorstShown);
  for (size_t i = 0; i < shown; ++i) add(errors[i]);
  if (shown > 0) table.add_rule();
  if (inexact > 0 && inexact < errors.size()) add(total_error(errors, true));
  add(total_error(errors));
  fmt::print("{}", table.to_string());
  if (!all)
    fmt::print("{} of {} {} exact{}\n", errors.size() - inexact, count_of(std::ssize(errors), "tensor"),
               errors.size() - inexact == 1 ? "is" : "are",
               inexact > shown ? fmt::format("; {} more are not shown (--all)", inexact - shown) : "");
}

// Only a calibration stores scales in 8 bits without an offset.
bool is_calibrated(const Checkpoint& checkpoint) {
  for (const std::string& name : checkpoint.weight_names())
    if (checkpoint.is_quantized(name))
      if (const QuantizedView view = checkpoint.quantized(name); view.nested && view.nested_offset == 0)
        return true;
  return false;
}

std::vector<Finding> check(const Checkpoint& checkpoint, int threads) {
  const auto bar = std::make_shared<ProgressBar>("check", "tensors");
  ConvertControl control = control_with_progress(bar, threads, false);
  control.progress = [bar](const ConvertProgress& progress) {
    bar->update(progress.tensors_done, progress.tensors_total,
                fmt::format("{}/{} tensors", progress.tensors_done, progress.tensors_total));
  };
  std::vector<Finding> findings = check_checkpoint(checkpoint, control);
  bar->finish();
  return findings;
}

void run(const Options& options) {
  catch_interrupts();
  const bool gguf = is_gguf_path(options.path);
  if (gguf) {
    if (!options.original.empty()) throw UsageError("--against is for safetensors");
    if (!options.json || !options.check) inspect_gguf(options.path, options.all, options.json);
    if (!options.check) return;
  }
  // What has to be read has to be known.
  const bool lists = !options.check && options.original.empty();
  const Checkpoint checkpoint(gguf ? options.path : resolve_model_path(options.path),
                              {.list_unknown = lists});
  if (!options.json && !gguf) {
    print_weights(checkpoint, options.all);
    if (!checkpoint.unknown().empty())
      fmt::print(
          "{} of a type that nfloat does not know ('{}' of '{}'): no command can use this "
          "checkpoint\n",
          count_of(std::ssize(checkpoint.unknown()), "tensor"),
          one_line(checkpoint.unknown()[0].dtype, kMostOfAType),
          one_line(checkpoint.unknown()[0].name, kMostOfAName));
    if (const std::string& reason = checkpoint.foreign_refusal(); !reason.empty())
      fmt::print("quantized by another method, shown as it is stored: {}\n", printable(reason));
    else if (!checkpoint.foreign_method().empty())
      fmt::print("quantized by another method, read as values: {}\n", printable(checkpoint.foreign_method()));
  }
  std::optional<std::vector<Finding>> findings;
  bool sound = true;
  if (options.check) {
    findings = check(checkpoint, options.threads);
    for (const Finding& finding : *findings) sound = sound && !finding.error;
    if (!options.json) {
      fmt::print("\n");
      print_findings(*findings);
    }
  }
  std::optional<std::vector<TensorError>> errors;
  if (!options.original.empty()) {
    const Checkpoint original(resolve_model_path(options.original));
    const auto bar = std::make_shared<ProgressBar>("compare", "GB");
    errors = compare_checkpoints(checkpoint, original, control_with_progress(bar, options.threads, false));
    bar->finish();
    if (!options.json) {
      fmt::print("\n");
      print_errors(*errors, options.all);
      if (is_calibrated(checkpoint))
        fmt::print(
            "These weights were calibrated: their error is larger by design, that of what they compute "
            "is smaller. The measure is divergence: nfloat perplexity {} --reference {}\n",
            printable(options.path), printable(options.original));
    }
  }
  if (options.json) fmt::print("{}\n", inspect_json(checkpoint, findings, errors));
  if (!sound) throw Error(ErrorCode::kMalformedFile, fmt::format("{}: the check found errors", options.path));
}

}  // namespace

void add_inspect_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand(
      "inspect", "Show the contents of a checkpoint, check it, compare it with its original");
  command.footer(
      "Examples:\n"
      "  nfloat inspect ./Llama-3.2-1B-nf4\n"
      "  nfloat inspect ./Llama-3.2-1B-nf4 --check --against ./Llama-3.2-1B\n"
      "SQNR is the ratio of the weights' power to the error's, in dB: NF4 gives about 20.7 on Gaussian "
      "weights, and 6 dB\n"
      "are one bit. --check exits with 1 when a loader would fail or decode wrong values.");
  command
      .add_option("PATH", options->path,
                  "Model folder, a name org/model in the Hugging Face cache, or a .safetensors or .gguf file")
      .required();
  command.add_flag("--check", options->check,
                   "Check the health of a quantized file: companions, shapes, tables, scales");
  command.add_option("--against", options->original, "The original: error of every tensor, worst first");
  command.add_flag("--all", options->all, "Every tensor by itself, not one row for the layers' equal ones");
  command.add_option("--threads", options->threads, "Threads; 0: all cores").between(0, 1024);
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
