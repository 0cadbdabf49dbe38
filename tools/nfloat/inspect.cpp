// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/json.h"
#include "commands.h"
#include "convert_options.h"
#include "inspect_gguf.h"
#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "nfloat/gguf.h"
#include "nfloat/tokenizer.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {
namespace {

constexpr size_t kWorstShown = 12;

struct Options {
  std::string path, original;
  bool check = false, all = false, json = false;
  int threads = 0;
};

// One weight with all that belongs to it.
struct Weight {
  std::string name, layout;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t bytes = 0;
};

std::vector<Weight> list_weights(const Checkpoint& checkpoint) {
  std::vector<Weight> weights;
  for (const std::string& name : checkpoint.weight_names()) {
    const TensorInfo& info = *checkpoint.find(name);
    Weight weight{name, "plain", info.dtype, info.shape, checkpoint.stored_bytes(name)};
    if (checkpoint.is_quantized(name)) {
      try {
        const QuantizedView view = checkpoint.quantized(name);
        weight.layout = fmt::format("{}, blocks of {}{}", view.quant_type, view.block_size,
                                    view.nested ? ", double" : "");
        weight.dtype = view.dtype;
        weight.shape = view.shape;
      } catch (const Error&) {
        weight.layout = "damaged (see --check)";
      }
    } else if (const std::string stored = checkpoint.stored_type(name); stored != dtype_name(info.dtype)) {
      weight.layout = stored;
    }
    weights.push_back(std::move(weight));
  }
  return weights;
}

double bits(uint64_t bytes, int64_t elements) {
  return elements > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

void print_weights(const std::vector<Weight>& weights, bool all) {
  struct Row {
    int64_t count = 0, elements = 0;
    uint64_t bytes = 0;
  };
  std::vector<std::array<std::string, 4>> order;
  std::map<std::array<std::string, 4>, Row> rows;
  Row total;
  for (const Weight& weight : weights) {
    const std::array<std::string, 4> key = {all ? weight.name : name_pattern(weight.name),
                                            std::string(dtype_name(weight.dtype)), weight.shape.to_string(),
                                            weight.layout};
    Row& row = rows[key];
    if (row.count == 0) order.push_back(key);
    for (Row* sum : {&row, &total}) {
      ++sum->count;
      sum->elements += weight.shape.elements();
      sum->bytes += weight.bytes;
    }
  }
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
  table.add({fmt::format("{} parameters", total.elements), fmt::format("{}", total.count), "", "", "",
             format_bytes(total.bytes), fmt::format("{:.3f}", bits(total.bytes, total.elements))});
  fmt::print("{}", table.to_string());
}

Json to_json(const std::vector<Weight>& weights) {
  Json list = Json::array();
  for (const Weight& weight : weights) {
    Json entry;
    entry["name"] = weight.name;
    entry["dtype"] = dtype_name(weight.dtype);
    entry["shape"] = weight.shape.dims();
    entry["layout"] = weight.layout;
    entry["bytes"] = weight.bytes;
    entry["bits_per_weight"] = bits(weight.bytes, weight.shape.elements());
    list.push_back(std::move(entry));
  }
  return list;
}

bool print_findings(const std::vector<Finding>& findings) {
  size_t errors = 0;
  for (const Finding& finding : findings) errors += finding.error ? 1 : 0;
  std::map<std::pair<std::string, std::string>, size_t> repeated;
  for (const Finding& finding : findings) {
    // The same remark about every layer is one line.
    if (repeated[{name_pattern(finding.tensor), finding.text}]++ == 0 || finding.error) {
      fmt::print("{}: {}: {}\n", finding.error ? "ERROR" : "note", printable(finding.tensor),
                 printable(finding.text));
    }
  }
  for (const auto& [key, count] : repeated) {
    if (count > 1)
      fmt::print("      ({} tensors like {}: {:.60}...)\n", count, printable(key.first),
                 printable(key.second));
  }
  fmt::print("check: {}\n",
             errors == 0 ? "sound" : fmt::format("{} error{}", errors, errors == 1 ? "" : "s"));
  return errors == 0;
}

TensorError sum_errors(const std::vector<TensorError>& errors, bool inexact_only) {
  TensorError total;
  total.name = inexact_only ? "all that differ" : "all";
  for (const TensorError& error : errors) {
    if (inexact_only && error.squared_error == 0) continue;
    total.elements += error.elements;
    total.squared_error += error.squared_error;
    total.squared_original += error.squared_original;
    total.max_error = std::max(total.max_error, error.max_error);
    total.zeros += error.zeros;
    total.zeros_kept += error.zeros_kept;
  }
  return total;
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
    const double sqnr = error.sqnr_db();
    table.add({error.name, fmt::format("{}", error.elements),
               std::isinf(sqnr) ? "exact" : fmt::format("{:.3f}", sqnr),
               fmt::format("{:.6f}", relative_error(error)), fmt::format("{:.3g}", error.max_error),
               error.zeros == 0 ? "-" : fmt::format("{}/{}", error.zeros_kept, error.zeros)});
  };
  size_t inexact = 0;
  for (const TensorError& error : errors) inexact += error.squared_error > 0 ? 1 : 0;
  const size_t shown = all ? errors.size() : std::min(inexact, kWorstShown);
  for (size_t i = 0; i < shown; ++i) add(errors[i]);
  if (shown > 0) table.add_rule();
  if (inexact > 0 && inexact < errors.size()) add(sum_errors(errors, true));
  add(sum_errors(errors, false));
  fmt::print("{}", table.to_string());
  if (!all)
    fmt::print("{} of {} tensors are exact{}\n", errors.size() - inexact, errors.size(),
               inexact > shown ? fmt::format("; {} more are not shown (--all)", inexact - shown) : "");
}

Json to_json(const TensorError& error) {
  Json entry;
  entry["name"] = error.name;
  entry["elements"] = error.elements;
  entry["squared_error"] = error.squared_error;
  entry["squared_original"] = error.squared_original;
  entry["relative_error"] = relative_error(error);
  const double sqnr = error.sqnr_db();
  if (std::isfinite(sqnr)) {
    entry["sqnr_db"] = sqnr;
  } else {
    entry["sqnr_db"] = nullptr;  // exact
  }
  entry["max_error"] = error.max_error;
  entry["zeros"] = error.zeros;
  entry["zeros_kept"] = error.zeros_kept;
  return entry;
}

// A folder without a tokenizer is sound: weights alone.
void check_tokenizer(const Checkpoint& checkpoint, std::vector<Finding>& findings) {
  std::error_code ignored;
  const std::filesystem::path folder(checkpoint.path());
  const auto there = [&](const char* name) { return std::filesystem::exists(folder / name, ignored); };
  if (!there("tokenizer.json") && !there("tokenizer.model") && !(there("vocab.json") && there("merges.txt")))
    return;
  try {
    Tokenizer::load(checkpoint.path());
  } catch (const Error& error) {
    findings.push_back({true, "", error.what()});
  }
}

void run(const Options& options) {
  if (is_gguf_path(options.path)) {
    if (!options.original.empty()) throw UsageError("--against is for safetensors");
    if (options.check) check_gguf(options.path);
    return inspect_gguf(options.path, options.all, options.json);
  }
  const Checkpoint checkpoint(resolve_model_path(options.path));
  catch_interrupts();
  const std::vector<Weight> weights = list_weights(checkpoint);
  Json json;
  if (options.json) {
    json["path"] = checkpoint.path();
    json["tensors"] = to_json(weights);
    if (!checkpoint.foreign_method().empty()) json["quantized_by"] = checkpoint.foreign_method();
  } else {
    print_weights(weights, options.all);
    if (const std::string& reason = checkpoint.foreign_refusal(); !reason.empty())
      fmt::print("quantized by another method, shown as it is stored: {}\n", printable(reason));
    else if (!checkpoint.foreign_method().empty())
      fmt::print("quantized by another method, read as values: {}\n", printable(checkpoint.foreign_method()));
  }
  bool sound = true;
  if (options.check) {
    const auto bar = std::make_shared<ProgressBar>("check", "tensors");
    ConvertControl control = control_with_progress(bar, options.threads, false);
    control.progress = [bar](const ConvertProgress& progress) {
      bar->update(progress.tensors_done, progress.tensors_total,
                  fmt::format("{}/{} tensors", progress.tensors_done, progress.tensors_total));
    };
    std::vector<Finding> findings = check_checkpoint(checkpoint, control);
    check_tokenizer(checkpoint, findings);
    bar->finish();
    for (const Finding& finding : findings) sound = sound && !finding.error;
    if (options.json) {
      json["sound"] = sound;
      json["findings"] = Json::array();
      for (const Finding& finding : findings) {
        json["findings"].push_back(
            {{"error", finding.error}, {"tensor", finding.tensor}, {"text", finding.text}});
      }
    } else {
      fmt::print("\n");
      print_findings(findings);
    }
  }
  if (!options.original.empty()) {
    const Checkpoint original(resolve_model_path(options.original));
    const auto bar = std::make_shared<ProgressBar>("compare", "GB");
    const std::vector<TensorError> errors =
        compare_checkpoints(checkpoint, original, control_with_progress(bar, options.threads, false));
    bar->finish();
    if (options.json) {
      json["total"] = to_json(sum_errors(errors, false));
      json["total_of_inexact"] = to_json(sum_errors(errors, true));
      json["errors"] = Json::array();
      for (const TensorError& error : errors) json["errors"].push_back(to_json(error));
    } else {
      fmt::print("\n");
      print_errors(errors, options.all);
    }
  }
  if (options.json) fmt::print("{}\n", json.dump(2, Json::Invalid::kReplace));
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
  command.callback([options] { run(*options); });
}

}  // namespace nfloat::cli
