// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "calibration_text.h"
#include "commands.h"
#include "convert_calibrated.h"
#include "convert_options.h"
#include "nfloat/adapter_gguf.h"
#include "nfloat/bridge.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "nfloat/results.h"
#include "nfloat/text.h"
#include "notes.h"
#include "rank_options.h"
#include "table.h"

namespace nfloat::cli {
namespace {

struct Options {
  std::string input, output, type = "auto", part_size, lora, original, adapter_of, scale = "absmax";
  bool overwrite = false, json = false, check = false, all = false;
  int threads = 0;
  ConvertCalibration calibration;
  std::string imatrix, write_imatrix;
  PartOptions parts;
};

// What a rank has measured of a tensor; of each tensor one rank has.
struct Measured {
  double squared_error, squared_original;
  int64_t not_finite, first_not_finite;
};

// Every rank has what all have measured.
void share_measures(Ranks& ranks, std::vector<BridgeTensor>& tensors) {
  std::vector<Measured> own;
  for (const BridgeTensor& tensor : tensors)
    own.push_back(
        {tensor.squared_error, tensor.squared_original, tensor.not_finite, tensor.first_not_finite});
  const size_t bytes = own.size() * sizeof(Measured);
  std::vector<Measured> all(own.size() * static_cast<size_t>(ranks.count()));
  ranks.gather(own.data(), std::vector<size_t>(static_cast<size_t>(ranks.count()), bytes), all.data());
  for (size_t i = 0; i < tensors.size(); ++i) {
    BridgeTensor& tensor = tensors[i];
    tensor.squared_error = tensor.squared_original = 0;
    tensor.not_finite = 0;
    for (size_t at = i; at < all.size(); at += tensors.size()) {
      tensor.squared_error += all[at].squared_error;
      tensor.squared_original += all[at].squared_original;
      tensor.not_finite += all[at].not_finite;
      tensor.first_not_finite = std::max(tensor.first_not_finite, all[at].first_not_finite);
    }
  }
}

// The result and what a run in parts says of it.
struct Folder {
  BridgeResult result;
  ConvertResult made;
};

Folder convert_folder(const Checkpoint& input, const Options& options, BridgeOptions bridge,
                      const ConvertControl& control) {
  Folder folder;
  std::vector<BridgeTensor> measured;  // by all ranks
  folder.made = convert_in_parts(options.parts, control, "convert", [&](const ConvertControl& own) {
    bridge.measure_finished = measured.empty();
    folder.result = write_folder(input, options.output, bridge, own);
    const BridgeResult& result = folder.result;
    if (const std::shared_ptr<Ranks> ranks = joined_ranks(); ranks && !result.whole) {
      measured = result.tensors;
      share_measures(*ranks, measured);
    }
    ConvertResult made;
    made.files = result.files;
    made.seconds = result.seconds;
    made.sync_seconds = result.sync_seconds;
    made.shards = result.shards;
    made.shards_before = result.shards_before;
    made.shards_damaged = result.shards_damaged;
    made.whole = result.whole;
    return made;
  });
  for (size_t i = 0; i < measured.size(); ++i) {
    BridgeTensor& tensor = folder.result.tensors[i];
    if (tensor.squared_change > 0) continue;  // measured in the output, by this rank
    tensor.squared_error = measured[i].squared_error;
    tensor.squared_original = measured[i].squared_original;
    tensor.not_finite = measured[i].not_finite;
    tensor.first_not_finite = measured[i].first_not_finite;
  }
  folder.result.seconds = folder.made.seconds;
  folder.result.sync_seconds = folder.made.sync_seconds;
  return folder;
}

// A GGUF file.
BridgeResult convert_file(const Checkpoint& input, const Options& options, BridgeOptions bridge,
                          ConvertControl control) {
  bridge.ranks = joined_ranks(options.parts.ranks);
  if (bridge.ranks) {
    bridge.ranks->at("the conversion", -1);
    control.threads = threads_of_rank(*bridge.ranks, control.threads);
  }
  BridgeResult result = write_gguf(input, options.output, bridge, control);
  if (!bridge.ranks) return result;
  share_measures(*bridge.ranks, result.tensors);
  // What each tensor was, of those that another rank has read: a line each.
  std::string before;
  for (const BridgeTensor& tensor : result.tensors) before += tensor.before + "\n";
  for (const std::string& lines : bridge.ranks->gather_texts(before)) {
    size_t at = 0;
    for (BridgeTensor& tensor : result.tensors) {
      const size_t end = lines.find('\n', at);
      if (tensor.before.empty()) tensor.before = lines.substr(at, end - at);
      at = end + 1;
    }
  }
  return result;
}

double bits(const BridgeTensor& tensor) {
  return 8 * static_cast<double>(tensor.bytes) / static_cast<double>(std::max<int64_t>(1, tensor.elements));
}

std::string sqnr(double error, double original) {
  if (!std::isfinite(error) || !std::isfinite(original)) return "too large";
  return error > 0 ? fmt::format("{:.2f}", 10 * std::log10(original / error)) : "exact";
}

// Below this share the merged model is not the one that was trained.
constexpr double kEnoughLeft = 0.9;

void warn_of_not_finite(const BridgeResult& result) {
  constexpr size_t kMostShown = 5;
  size_t tensors = 0;
  for (const BridgeTensor& tensor : result.tensors) {
    if (tensor.not_finite == 0 || ++tensors > kMostShown) continue;
    warn(fmt::format("'{}': {} NaN or infinite (SQNR leaves that out), the first is element {}",
                     one_line(tensor.name, 200), count_of(tensor.not_finite, "value"),
                     tensor.first_not_finite));
  }
  if (tensors > kMostShown)
    warn(fmt::format("NaN or infinite values in {}",
                     count_of(static_cast<int64_t>(tensors - kMostShown), "more tensor")));
}

void warn_of_loss(const BridgeResult& result, bool from_original) {
  const BridgeTensor total = adapter_total(result);
  if (total.adapter_left() >= kEnoughLeft) return;
  warn(fmt::format(
      "{:.1f} % of the adapter is left after rounding to 4 bits; {}", 100 * total.adapter_left(),
      from_original ? "--type bf16 keeps it"
                    : "--original FOLDER (the 16-bit model that IN was made from) or --type bf16 keeps it"));
}

// Rows of the same kind of tensor, type and treatment are one row of the table.
struct Group {
  std::string before, after;
  int64_t tensors = 0;
  BridgeTensor sum;
};

void print_table(const BridgeResult& result, bool all) {
  std::vector<std::pair<std::string, Group>> groups;
  std::map<std::string, size_t> known;
  for (const BridgeTensor& tensor : result.tensors) {
    const std::string name = all ? tensor.name : name_pattern(tensor.name);
    const auto [found, fresh] = known.emplace(name + tensor.before + tensor.after, groups.size());
    if (fresh) groups.push_back({name, {tensor.before, tensor.after, 0, {}}});
    Group& group = groups[found->second].second;
    ++group.tensors;
    group.sum.elements += tensor.elements;
    group.sum.bytes += tensor.bytes;
    group.sum.squared_error += tensor.squared_error;
    group.sum.squared_original += tensor.squared_original;
    group.sum.squared_change += tensor.squared_change;
    group.sum.change_product += tensor.change_product;
  }
  const bool changes = adapter_total(result).squared_change > 0;
  std::vector<Table::Column> columns{
      {"tensor", Table::Align::kLeft}, {"tensors"},       {"before", Table::Align::kLeft},
      {"after", Table::Align::kLeft},  {"bits a weight"}, {"SQNR, dB"}};
  if (changes) columns.push_back({"adapter left, %"});
  Table table(columns);
  for (const auto& [name, group] : groups) {
    std::vector<std::string> row{name,
                                 fmt::format("{}", group.tensors),
                                 group.before,
                                 group.after,
                                 fmt::format("{:.2f}", bits(group.sum)),
                                 sqnr(group.sum.squared_error, group.sum.squared_original)};
    if (changes)
      row.push_back(group.sum.squared_change > 0 ? fmt::format("{:.1f}", 100 * group.sum.adapter_left())
                                                 : "");
    table.add(row);
  }
  fmt::print("{}\n", table.to_string());
}

// An adapter, to GGUF or back.
void convert_adapter(const Options& options) {
  if (!options.lora.empty() || options.type != "auto" || !options.part_size.empty() || options.check)
    throw UsageError("--adapter-of converts an adapter alone: without --lora, --type, --part-size, --check");
  const Checkpoint base(resolve_model_path(options.adapter_of));
  const std::string input = resolve_model_path(options.input);
  const bool out = is_gguf_path(options.output);
  if (out == is_gguf_path(input))
    throw UsageError("--adapter-of goes from a PEFT folder to a .gguf file, or back");
  const WrittenAdapter written = out ? write_adapter_gguf(input, base, options.output, options.overwrite)
                                     : write_adapter_folder(input, base, options.output, options.overwrite);
  fmt::print("{}: {}\n", printable(options.output),
             count_of(static_cast<int64_t>(written.pairs), "low-rank pair"));
  for (const std::string& note : written.notes) fmt::print("lost: {}\n", note);
}

// What is found out about the model before it is converted; returns the sentence about it, if any.
std::string prepare(const Options& options, const std::string& folder, BridgeOptions& bridge,
                    std::optional<CalibrationFile>& state) {
  const bool measures = options.calibration.any() || !options.write_imatrix.empty();
  if (!measures && options.parts.fresh && is_gguf_path(options.output))
    throw UsageError("--fresh begins a calibration anew: it goes with --calibrate, --level or --fast");
  if (!measures && options.imatrix.empty()) return {};
  const GgufTypeInfo* type = bridge.type ? &gguf_type_info(*bridge.type) : nullptr;
  const bool blocks = type != nullptr && type->block_elements > 1 && type->type != GgufType::kQ8_0;
  if (!is_gguf_path(options.output) || !blocks || !options.lora.empty())
    throw UsageError(
        "--calibrate and --imatrix make a .gguf file of --type q4_0, iq4_nl, q4_k, q5_k, q6_k or iq4_xs, "
        "without --lora");
  if (measures && !options.imatrix.empty())
    throw UsageError("--imatrix is what --calibrate would measure: they do not go together");
  if (!options.overwrite && std::filesystem::exists(options.output))
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{}: exists already (--overwrite replaces it when the new one is whole)",
                            options.output));
  if (!options.write_imatrix.empty()) expect_importance_output(options.write_imatrix, options.overwrite);
  if (!options.imatrix.empty()) {
    bridge.importance = std::make_shared<const ImportanceMatrix>(read_importance(options.imatrix));
    return {};
  }
  catch_interrupts();
  std::string sentence =
      calibrate_blocks(folder, options.output, type->type, options.calibration, options.threads, state);
  // After it: a run that was cut short and goes on would find it there.
  if (!options.write_imatrix.empty())
    write_importance(options.write_imatrix, *importance_of_text(folder, options.calibration, options.threads),
                     options.overwrite);
  return sentence;
}

void run(const Options& options) {
  const bool one_file = !options.adapter_of.empty() || is_gguf_path(options.output);
  if (rank_place().count > 1 &&
      (!options.adapter_of.empty() || options.calibration.any() || !options.write_imatrix.empty()))
    throw UsageError(
        "convert: adapters by themselves and calibrations are not made by several ranks, models are: mpirun "
        "-n "
        "1, or none");
  if (one_file && options.parts.any())
    throw UsageError("convert: --part and --finish are for a folder of several files");
  if (!options.adapter_of.empty()) return convert_adapter(options);
  BridgeOptions bridge;
  bridge.check = options.check;
  if (!options.lora.empty()) bridge.lora = resolve_model_path(options.lora);
  const bool to_gguf = is_gguf_path(options.output);
  if (options.type == "base") {
    if (options.lora.empty() || to_gguf || options.check)
      throw UsageError("--type base is for --lora into a folder; nfloat inspect --check looks at the result");
    bridge.keep_packed = true;
    bridge.scale = scale_method(options.scale);
    if (!options.original.empty()) bridge.original = resolve_model_path(options.original);
  } else if (!options.original.empty()) {
    throw UsageError("--original is for --lora with --type base");
  } else if (options.scale != "absmax") {
    throw UsageError("--scale is for --type base: nothing else is quantized again");
  } else if (options.type != "auto") {
    const GgufTypeInfo* type = find_gguf_type(options.type);
    if (type == nullptr) throw UsageError(fmt::format("--type '{}' is not known", options.type));
    bridge.type = type->type;
  }
  if (!options.part_size.empty()) bridge.part_bytes = parse_bytes(options.part_size, "--part-size");
  const std::string folder = resolve_model_path(options.input);
  expect_outputs_apart({{options.output}, {options.write_imatrix, "--write-imatrix"}},
                       {{folder},
                        {bridge.lora, "--lora"},
                        {bridge.original, "--original"},
                        {options.calibration.text, "--calibrate"},
                        {options.imatrix, "--imatrix"}});
  std::optional<CalibrationFile> state;
  const std::string calibrated = prepare(options, folder, bridge, state);
  if (state) bridge.prepared = [&state](const std::string& name) { return state->blocks(name); };
  const Checkpoint input(folder, {.decoded = DType::kF32, .keep_mxfp4 = to_gguf});
  catch_interrupts();
  const auto bar = std::make_shared<ProgressBar>("convert", "GB");
  const ConvertControl control = control_with_progress(bar, options.threads, options.overwrite);
  const Folder made = to_gguf ? Folder{convert_file(input, options, bridge, control), {}}
                              : convert_folder(input, options, bridge, control);
  const BridgeResult& result = made.result;
  bar->finish();
  if (state) state->remove();
  warn_of_not_finite(result);
  warn_of_loss(result, !options.original.empty());
  if (options.json) {
    fmt::print("{}\n", convert_json(result));
    return;
  }
  if (const std::string told = part_sentence(made.made, options.parts, options.output); !told.empty())
    note("convert: {}\n", told);
  if (!result.whole) return;
  print_table(result, options.all);
  double error = 0, original = 0;
  for (const BridgeTensor& tensor : result.tensors) {
    error += tensor.squared_error;
    original += tensor.squared_original;
  }
  const auto count = static_cast<double>(std::max<int64_t>(1, result.parameters));
  fmt::print(
      "{}: {}, {}, {} -> {} ({:.2f} -> {:.2f} bits a weight), {}; {:.2f} s, {:.2f} GB/s of "
      "input\n",
      printable(result.files[0]), count_of(std::ssize(result.tensors), "tensor"),
      count_of(result.parameters, "weight"), format_bytes(result.bytes_before),
      format_bytes(result.bytes_after), 8 * static_cast<double>(result.bytes_before) / count,
      8 * static_cast<double>(result.bytes_after) / count,
      error > 0 ? fmt::format("SQNR {} dB where rounded", sqnr(error, original)) : "nothing rounded",
      result.seconds, static_cast<double>(result.bytes_before) / 1e9 / std::max(result.seconds, 1e-9));
  if (result.weighted > 0)
    fmt::print("scales chosen by an importance matrix: {}\n",
               count_of(static_cast<int64_t>(result.weighted), "tensor"));
  if (!calibrated.empty()) fmt::print("{}\n", calibrated);
  if (result.merged > 0)
    fmt::print("merged: {} of the adapter\n", count_of(static_cast<int64_t>(result.merged), "weight"));
  if (const BridgeTensor total = adapter_total(result); total.squared_change > 0)
    fmt::print(
        "left of the adapter: {:.1f} % (what was achieved along what was wanted), error {:.2f} of its size\n",
        100 * total.adapter_left(), total.adapter_error());
  if (result.files.size() > 1) fmt::print("in {} parts\n", result.files.size());
  for (const std::string& note : result.notes) fmt::print("lost: {}\n", note);
  if (options.check)
    fmt::print("checked: every byte of every tensor is what the input gives ({:.2f} s)\n",
               result.check_seconds);
}

}  // namespace

void add_convert_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("convert", "Convert a model folder to a GGUF file for llama.cpp, or back");
  command.footer(
      "Examples:\n"
      "  nfloat convert ./Llama-3.2-1B ./Llama-3.2-1B.gguf --type q8_0\n"
      "  nfloat convert ./Llama-3.2-1B-nf4 ./Llama-3.2-1B.gguf --type bf16 --check\n"
      "  nfloat convert ./Llama-3.2-1B-Q4_K_M.gguf ./Llama-3.2-1B --type bf16\n"
      "  nfloat convert ./Llama-3.2-1B-nf4 ./merged --lora ./my-adapter --type bf16\n"
      "  nfloat convert ./Llama-3.2-1B-nf4 ./merged-nf4 --lora ./my-adapter --type base --scale signed\n"
      "  nfloat convert ./my-adapter ./my-adapter.gguf --adapter-of ./Llama-3.2-1B-nf4\n"
      "GGUF has no NF4: weights of bitsandbytes' 4-bit layout become the values that they stand for. What "
      "is\n"
      "rounded is measured: \"exact\" in the table, or a signal-to-noise ratio. What llama.cpp does "
      "otherwise\n"
      "than the model is said.");
  command
      .add_option("IN", options->input,
                  "Model folder (plain or bitsandbytes 4-bit), GGUF file, or a name org/model in the "
                  "Hugging Face cache")
      .required();
  command.add_option("OUT", options->output, "GGUF file to make (NAME.gguf), else a model folder").required();
  command
      .add_option(
          "--type", options->type,
          "Type of the matrices: auto (as they are; 4-bit ones and blocks bf16), f32, f16, bf16, q8_0, q6_k, "
          "q5_k, q4_k, iq4_nl, q4_0, iq4_xs; base: with --lora, 4-bit weights stay 4-bit, merged ones are "
          "quantized again")
      .show_default();
  command.add_option("--part-size", options->part_size,
                     "Several files of at most this size (5GB): NAME-00001-of-00002.gguf");
  command.add_option(
      "--lora", options->lora,
      "Folder of a LoRA adapter that PEFT saved, or its name org/adapter in the Hugging Face cache: "
      "added to the weights on the way");
  command.add_option("--adapter-of", options->adapter_of,
                     "IN is a LoRA adapter of this model folder: from PEFT's folder to a GGUF file, or back");
  command.add_option("--original", options->original,
                     "With --type base: the 16-bit model that IN was made from; the adapter is added to its "
                     "weights, which keeps it, instead of to 4-bit ones");
  command
      .add_option("--scale", options->scale,
                  "With --type base, of the weights that are quantized again: absmax, search, signed (nfloat "
                  "quantize --help)")
      .one_of({"absmax", "search", "signed"})
      .show_default();
  ConvertCalibration& calibration = options->calibration;
  command.add_option("--calibrate", calibration.text,
                     "Let what the model does with this text choose codes, scales and minima of --type q4_0, "
                     "iq4_nl, iq4_xs, q4_k, q5_k or q6_k, as nfloat quantize --calibrate does");
  command
      .add_option("--calibration-tokens", calibration.tokens,
                  fmt::format("Tokens of it that are used; {} unless given", calibration_tokens(1)))
      .between(int64_t{256}, int64_t{1} << 30);
  command
      .add_option(
          "--level", calibration.level,
          "Of the calibration: 1, or 2, which corrects each product for the layers before it; without "
          "--calibrate on the general text that comes with nfloat")
      .between(1, 2);
  command.add_option("--imatrix", options->imatrix,
                     "Importance matrix of llama.cpp (GGUF or the older form) by which scales are chosen");
  command.add_option(
      "--write-imatrix", options->write_imatrix,
      "Write what was measured on the text of --calibrate as an importance matrix: NAME.gguf, or the "
      "older form under any other name");
  command.add_flag("--fast", calibration.fast, "Calibrate with less searching");
  command.add_flag("--check", options->check, "Read the result back and compare every byte");
  command.add_flag("--all", options->all, "One line a tensor");
  command.add_option("--threads", options->threads, "Threads; 0: all cores").between(0, 1024).show_default();
  command.add_flag("--overwrite", options->overwrite, "Replace OUT when the new one is whole");
  command.add_flag("--json", options->json, "Print JSON");
  add_part_options(command, options->parts);
  command.callback_of_ranks([options] {
    options->calibration.fresh = options->parts.fresh;
    run(*options);
  });
}

}  // namespace nfloat::cli
