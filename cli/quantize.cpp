// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>

#include "calibrate_model.h"
#include "calibration_text.h"
#include "commands.h"
#include "convert_options.h"
#include "model_options.h"
#include "nfloat/convert.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "nfloat/results.h"
#include "notes.h"
#include "progress.h"
#include "quantize_limits.h"
#include "rank_options.h"
#include "table.h"

namespace nfloat::cli {
namespace {

struct Options {
  std::string input, output;
  std::string format = "nf4", scale = "absmax", preset, storage = "uint8", shard_size = "5GB";
  int64_t block_size = 64;
  bool double_quantization = false;
  std::vector<std::string> skip, only;
  bool quantize_experts = false, allow_nonfinite = false, overwrite = false, dry_run = false, json = false;
  int threads = 0;
  std::string calibrate, device;
  int64_t calibration_tokens = 0;  // 0: by level
  int level = 0;                   // 0: 1, of --preset calibrated 2
  bool fast = false, text_alone = false;
  PartOptions parts;
  QuantizeLimits limits;

  bool calibrates() const {
    return !calibrate.empty() || preset == "calibrated" || level > 0 || fast || limits.any();
  }
};

QuantizeCheckpointOptions library_options(const Options& options, bool scale_given) {
  QuantizeCheckpointOptions result;
  result.format = options.format;
  result.quantize.block_size = options.block_size;
  result.quantize.double_quantization = options.double_quantization;
  result.quantize.scale = scale_method(options.scale);
  // A preset is what is not said otherwise.
  if (!options.preset.empty()) {
    result.quantize.double_quantization = true;
    if (options.preset != "qlora" && !scale_given) result.quantize.scale = ScaleMethod::kSigned;
  }
  if (options.calibrates()) {  // what is not in the layers gets the best that needs no text
    result.quantize.double_quantization = true;
    if (!scale_given) result.quantize.scale = ScaleMethod::kSigned;
  }
  result.quantize.allow_nonfinite = options.allow_nonfinite;
  result.quantize.threads = options.threads;
  parse_dtype(options.storage, &result.storage);
  result.skip = options.skip;
  result.only = options.only;
  result.quantize_experts = options.quantize_experts;
  result.shard_bytes = parse_bytes(options.shard_size, "--shard-size");
  return result;
}

double bits(uint64_t bytes, int64_t parameters) {
  return parameters > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(parameters) : 0;
}

struct Sums {
  int64_t tensors = 0, parameters = 0;
  uint64_t before = 0, after = 0;
  void add(const TensorPlan& tensor) {
    ++tensors;
    parameters += tensor.input.shape.elements();
    before += tensor.input.bytes;
    after += tensor.bytes_after;
  }
};

std::string summary(const QuantizationPlan& plan) {
  std::map<int64_t, Sums> quantized;                         // by block size
  std::map<std::pair<std::string, std::string>, Sums> kept;  // by reason, then by pattern
  for (const TensorPlan& tensor : plan.tensors) {
    if (tensor.quantize) {
      quantized[tensor.block_size].add(tensor);
    } else {
      kept[{tensor.reason, name_pattern(tensor.input.name)}].add(tensor);
    }
  }
  Table table({{"", Table::Align::kLeft},
               {"why plain", Table::Align::kLeft},
               {"tensors"},
               {"parameters"},
               {"before"},
               {"after"},
               {"bits/weight"},
               {"share"}});
  const auto row = [&](const std::string& title, const std::string& reason, const Sums& sums) {
    const double share = plan.bytes_after > 0
                             ? 100 * static_cast<double>(sums.after) / static_cast<double>(plan.bytes_after)
                             : 0;
    table.add({title, reason, fmt::format("{}", sums.tensors), fmt::format("{}", sums.parameters),
               format_bytes(sums.before), format_bytes(sums.after),
               fmt::format("{:.3f}", bits(sums.after, sums.parameters)), fmt::format("{:.1f} %", share)});
  };
  for (const auto& [size, sums] : quantized)
    row(quantized.size() > 1 ? fmt::format("quantized, blocks of {}", size) : "quantized", "", sums);
  if (quantized.empty()) row("quantized", "", {});
  for (const auto& [key, sums] : kept) row(key.second, key.first, sums);
  table.add_rule();
  row("all", "",
      {static_cast<int64_t>(plan.tensors.size()), plan.parameters, plan.bytes_before, plan.bytes_after});
  return table.to_string();
}

CalibrateRequest request(const Options& options, const std::string& folder) {
  CalibrateRequest result;
  result.input = options.input;
  result.folder = folder;
  result.output = options.output;
  result.text = options.calibrate;
  result.level = options.level > 0 ? options.level : options.preset == "calibrated" ? 2 : 1;
  result.tokens =
      options.calibration_tokens > 0 ? options.calibration_tokens : calibration_tokens(result.level);
  result.text_alone = options.text_alone;
  result.fast = options.fast;
  result.fresh = options.parts.fresh;
  result.threads = options.threads;
  return result;
}

// Before work that would be lost: where the output's name leads. `bytes`: of its weights, as far as known.
std::string expect_output(const Options& options, const Checkpoint& input, uint64_t bytes = 0) {
  if (options.output.empty()) throw UsageError("quantize: OUT is missing (only --dry-run goes without)");
  expect_outputs_apart({{options.output}}, {{options.calibrate, "--calibrate"}});
  return expect_quantize_output(input, options.output, options.overwrite, bytes);
}

void run(const Options& options, bool scale_given, bool tokens_given) {
  const std::string device = conversion_device(options.device);
  if (options.calibrates() && device != "cpu")
    throw Error(ErrorCode::kUnsupported,
                fmt::format("a calibration computes on the CPU, and --device names {}: say --device cpu, or "
                            "leave it out",
                            device));
  if (options.text_alone && options.calibrate.empty())
    throw UsageError("quantize: --text-alone is for a text of one's own: it goes with --calibrate");
  if (!options.calibrates() && tokens_given)
    throw UsageError(
        "quantize: --calibration-tokens is for a calibration: it goes with --calibrate, --level, --fast or "
        "--preset calibrated");
  if ((options.parts.any() || rank_place().count > 1) && options.calibrates())
    throw UsageError("quantize: a calibration is not done in parts: --part and --finish do not go with it");
  QuantizeCheckpointOptions settings = library_options(options, scale_given);
  settings.device = device;
  const std::string folder = resolve_model_path(options.input);
  const Checkpoint input(folder);
  if (!options.limits.budget.empty() + (options.limits.bits > 0) + (options.limits.divergence > 0) > 1)
    throw UsageError("quantize: --budget, --bits and --max-divergence do not go together");
  if (!options.limits.any() && !options.limits.block_sizes.empty())
    throw UsageError("quantize: --block-sizes goes with --budget, --bits or --max-divergence");
  if (options.calibrates() && (options.preset == "qlora" || (scale_given && options.scale != "signed")))
    throw UsageError(
        "quantize: a calibration chooses signed scales: --preset qlora and --scale do not go with it");
  catch_interrupts();
  std::optional<BlockSizeSearch> search;
  if (options.limits.any()) {
    if (!options.dry_run) expect_output(options, input);
    search.emplace(request(options, folder), settings, options.limits);
    settings.block_sizes = search->sizes().sizes;
  }
  if (options.dry_run) {
    const QuantizationPlan plan = plan_quantization(input, settings);
    if (options.json) {
      fmt::print("{}\n", quantization_plan_json(plan));
    } else {
      fmt::print(
          "{}\nNothing was written (--dry-run). Copied along: {}\n", summary(plan),
          plan.copied_files.empty() ? "nothing" : fmt::format("{}", fmt::join(plan.copied_files, ", ")));
    }
    return;
  }
  if (options.output.empty()) throw UsageError("quantize: OUT is missing (only --dry-run goes without)");
  std::optional<CalibratedModel> calibrated;
  std::optional<CalibrationFile> file;
  if (options.calibrates()) {
    CalibrateRequest calibration = request(options, folder);
    calibration.output = expect_output(options, input);
    expect_output(options, input, plan_quantization(input, settings).bytes_after);
    for (;;) {
      calibrated = calibrate_model(calibration, settings, file);
      if (!search || search->met(calibrated->record.report.kl)) break;
      file->remove();
      file.reset();
      settings.block_sizes = search->sizes().sizes;
    }
    if (search) calibrated->chosen(search->in_words(), search->predicted());
    settings.card = calibrated->card();
    settings.prepared = [&](const std::string& name) {
      const auto found = calibrated->tensors.find(name);
      if (found == calibrated->tensors.end()) return file->tensor(name);
      return std::shared_ptr<const QuantizedTensor>(std::shared_ptr<void>(), &found->second);
    };
    settings.replaced = [&calibrated](const std::string& name) {
      const auto found = calibrated->norms.find(name);
      return found == calibrated->norms.end() ? nullptr : &found->second;
    };
  }
  const auto bar = std::make_shared<ProgressBar>("quantize", "GB");
  PartOptions parts = options.parts;
  if (options.calibrates()) parts.fresh = false;  // of the layers
  const ConvertControl control = control_with_progress(bar, options.threads, options.overwrite);
  const ConvertResult result = convert_in_parts(parts, control, "quantize", [&](const ConvertControl& own) {
    return quantize_checkpoint(input, options.output, settings, own);
  });
  bar->finish();
  if (file) file->remove();
  const double rate = static_cast<double>(result.plan.bytes_before) / 1e9 / std::max(result.seconds, 1e-9);
  if (options.json) {
    fmt::print("{}\n", quantize_json(result, calibrated ? std::optional(calibrated->record) : std::nullopt));
    return;
  }
  if (const std::string told = part_sentence(result, parts, options.output); !told.empty())
    note("quantize: {}\n", told);
  if (!result.whole) return;
  fmt::print("{}\n{}: {}, {:.2f} s at {:.2f} GB/s of input, {:.2f} s more until the disk had it\n",
             summary(result.plan), printable(options.output), count_of(std::ssize(result.files), "file"),
             result.seconds, rate, result.sync_seconds);
  if (device != "cpu") fmt::print("{}\n", on_device_sentence(result, device, "quantized"));
  if (calibrated) fmt::print("{}\n", calibrated->sentence());
  if (result.plan.quantized_parameters == 0)
    fmt::print("Nothing was quantized: every tensor was left plain.\n");
}

}  // namespace

void add_quantize_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("quantize", "Quantize a checkpoint to 4 bits (bitsandbytes layout)");
  command.footer(
      "Examples:\n"
      "  nfloat quantize ./Llama-3.2-1B ./Llama-3.2-1B-nf4\n"
      "  nfloat quantize meta-llama/Llama-3.2-1B out --preset best     from the local Hugging Face cache\n"
      "  nfloat quantize ./model --dry-run                             what would be done, and the sizes\n"
      "  nfloat quantize weights.safetensors weights-nf4.safetensors\n"
      "The result loads in Transformers, PEFT and vLLM (0.28 and later with vllm-bnb-plugin). Embeddings, "
      "norms, the output head and routers stay "
      "plain, as\n"
      "those programs expect; what stays plain is listed with its reason.");
  command
      .add_option("IN", options->input,
                  "Model folder, a name org/model in the Hugging Face cache, or a .safetensors file")
      .required();
  command.add_option("OUT", options->output,
                     "Folder to make (a file when IN is a file); appears whole or not at all");
  command
      .add_option("--format", options->format, "Code: nf4 (NormalFloat) or fp4 (bitsandbytes' 4-bit float)")
      .one_of({"nf4", "fp4"})
      .show_default();
  command
      .add_option("--block-size", options->block_size,
                  "Weights that share a scale, 16 or more; bitsandbytes loads 32, 64, ... 4096")
      .between(kMinBlockSize, int64_t{1} << 30)
      .show_default();
  command.add_flag("--double-quantization,--double-quant", options->double_quantization,
                   "Store the scales in 8 bits too: 4.127 instead of 4.5 bits a weight at block size 64");
  const Option scale =
      command
          .add_option(
              "--scale", options->scale,
              "absmax: bitsandbytes' own bytes; search: the scale with the least squared error; signed: "
              "the same, "
              "negative scales allowed (least error, same file size; decoded by the same multiplication)")
          .one_of({"absmax", "search", "signed"})
          .show_default();
  command
      .add_option("--preset", options->preset,
                  "qlora: nf4, blocks of 64, double quantization, absmax; best: the same with signed scales; "
                  "calibrated: the same by what the model does with the text of --calibrate, or with a "
                  "general one that "
                  "comes with nfloat, level 2")
      .one_of({"qlora", "best", "calibrated"});
  command.add_option(
      "--calibrate", options->calibrate,
      "Choose codes and scales by what the model does with this text (.txt; .jsonl with \"text\" "
      "or \"messages\"; .json with \"token_ids\"): half the divergence in the same file");
  command.add_flag("--text-alone", options->text_alone,
                   "Calibrate on that text alone: otherwise an eighth as many tokens of a general one stand "
                   "beside it");
  const Option tokens =
      command
          .add_option("--calibration-tokens", options->calibration_tokens,
                      fmt::format("Tokens of the text that are used; {}, at level 3 {}, unless given",
                                  calibration_tokens(1), calibration_tokens(3)))
          .between(int64_t{256}, int64_t{1} << 30);
  command
      .add_option("--level", options->level,
                  "1: each product by the original's inputs; 2: corrected for the layers before it, about "
                  "four times the work; 3: then codes, scales and norms trained to predict what the original "
                  "predicts, for models of which 20 bytes a weight fit the memory")
      .between(1, 3);
  command.add_flag("--fast", options->fast, "Calibrate with less searching: most of the gain in less time");
  command.add_option(
      "--budget", options->limits.budget,
      "Block sizes of 128, 64 or 32 or plain for each weight, by what it costs the model, so that "
      "the files of weights have at most this size (5.2GB); calibrates");
  command
      .add_option("--bits", options->limits.bits,
                  "The same for so many bits a weight of the matrices that can be quantized (4.3)")
      .above_zero();
  command
      .add_option(
          "--max-divergence", options->limits.divergence,
          "The same for the least size whose mean KL from the original on the held-back part is at most "
          "this (nats)")
      .above_zero();
  command
      .add_option("--block-sizes", options->limits.block_sizes,
                  "Of these three: the block sizes to choose from (128,64,32)")
      .list()
      .between(kMinBlockSize, int64_t{1} << 30);
  add_part_options(command, options->parts);
  command
      .add_option("--skip", options->skip,
                  "Leave tensors plain whose name has a match of this regular expression")
      .one_at_a_time();
  command
      .add_option("--only", options->only,
                  "Quantize only tensors whose name has a match of this regular expression")
      .one_at_a_time();
  command.add_flag("--quantize-experts", options->quantize_experts,
                   "Quantize 3-D expert weights too (bitsandbytes leaves them plain)");
  command.add_flag("--allow-nonfinite", options->allow_nonfinite,
                   "Continue when a weight is NaN or infinite");
  command.add_option("--storage-dtype", options->storage, "Type of the tensors that hold the packed codes")
      .one_of({"uint8", "bfloat16", "float16", "float32"})
      .show_default();
  command.add_option("--shard-size", options->shard_size, "Largest size of an output file").show_default();
  command.add_option("--threads", options->threads, "Threads; 0: all cores").between(0, 1024).show_default();
  command.add_option(
      "--device", options->device,
      "cpu, cuda or cuda:N: absmax in blocks of 16 to 4096, a power of two, to the same bytes; "
      "auto: the CPU");
  command.add_flag("--overwrite", options->overwrite, "Replace OUT when the new one is whole");
  command.add_flag("--dry-run", options->dry_run, "Only report what would be done");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options, scale, tokens] { run(*options, scale.given(), tokens.given()); });
}

}  // namespace nfloat::cli
