// SPDX-License-Identifier: Apache-2.0
#include "model_options.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "automatic_precision.h"
#include "commands.h"
#include "nfloat/adapter.h"
#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "nfloat/generate.h"
#include "nfloat/gguf.h"
#include "nfloat/results.h"
#include "nfloat/targets.h"
#include "nfloat/threads.h"
#include "notes.h"
#include "numbers.h"
#include "progress.h"

namespace nfloat::cli {
namespace {

HeadFormat parse_head(const std::string& name) {
  return name == "int8" ? HeadFormat::kInt8 : name == "nf4" ? HeadFormat::kNf4 : HeadFormat::kKeep;
}

// "nf4", "nf4:128", "levels.json:32". A colon belongs to the block size only before digits to the end.
void parse_quantize(const std::string& text, ModelOptions& options) {
  std::string code = text;
  if (const size_t colon = text.rfind(':'); colon != std::string::npos) {
    const auto block = parse_number<int64_t>(std::string_view(text).substr(colon + 1));
    if (!block) throw UsageError(fmt::format("--quantize {}: expected CODE or CODE:BLOCK, as nf4:64", text));
    options.quantize_block_size = *block;
    code = text.substr(0, colon);
  }
  // No code's name has a dot or a slash.
  options.quantize = code.find_first_of("./") != std::string::npos
                         ? load_codebook(code)
                         : make_codebook(code, options.quantize_block_size);
}

}  // namespace

// "adapter", "adapter:0.5". A colon belongs to the weight only before a number to the end.
AdapterChoice parse_adapter(const std::string& text) {
  AdapterChoice choice{.folder = text};
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return choice;
  const auto weight = parse_number<double>(std::string_view(text).substr(colon + 1));
  if (!weight) return choice;
  constexpr double kMostWeight = 1e6;
  if (!(std::fabs(*weight) <= kMostWeight))
    throw UsageError(
        fmt::format("--lora {}: the weight must be from -{} to {}", text, kMostWeight, kMostWeight));
  return {.folder = text.substr(0, colon), .weight = *weight};
}

void add_model_options(const Command& command, ModelArguments& arguments, bool model_required) {
  const Option model = command.add_option(
      "MODEL", arguments.model,
      "Model folder (plain or bitsandbytes 4-bit), GGUF file, or a name org/model in the Hugging Face cache");
  if (model_required) model.required();
  command.add_option(
      "--quantize", arguments.quantize,
      "Quantize plain weights while loading: CODE or CODE:BLOCK, as nf4:64 (see nfloat codebook); a "
      "CODE with a dot or slash is a file of levels");
  command.add_flag("--double-quantization,--double-quant", arguments.double_quantization,
                   "With --quantize: scales in 8 bits");
  command
      .add_option("--head", arguments.head,
                  "Output head: keep (as stored), int8 or nf4; packed while loading")
      .one_of({"keep", "int8", "nf4"})
      .show_default();
  command
      .add_option(
          "--precision", arguments.precision,
          "Arithmetic of the matrix products; sums are float32 in all. f32: levels and activations as they "
          "are; bf16: both rounded to bf16; int8: activations in 8 bits by blocks of 64; bf16+int8: bf16 for "
          "one row (generation), int8 for more (prompts), int8+bf16 the reverse; auto: what is faster here, "
          "measured once, of commands that generate; bf16 of those that score")
      .one_of({"auto", "f32", "bf16", "int8", "bf16+int8", "int8+bf16"})
      .show_default();
  command.add_flag("--verbose", arguments.verbose,
                   "Say on standard error which instruction set, threads and precision are used, and why");
  command
      .add_option("--kv-cache", arguments.kv_cache,
                  "Keys and values: f32, f16, int8; auto: f32 with --precision f32, else f16")
      .one_of({"auto", "f32", "f16", "int8"})
      .show_default();
  command.add_option("--threads", arguments.threads, "Threads; 0: all cores").between(0, 1024);
  add_device_option(command, arguments.device);
  command
      .add_option("--lora", arguments.lora,
                  "Adapter folder as PEFT saves it, beside the weights; DIR:0.5 counts half; may be repeated")
      .one_at_a_time();
  add_rank_options(command, arguments.ranks);
}

void add_device_option(const Command& command, std::string& device) {
  command.add_option(
      "--device", device,
      "Where the weights are and the layers run: cpu (unless NFLOAT_DEVICE says another); cuda or cuda:N, an "
      "NVIDIA card; vulkan or vulkan:N, a graphics card by its Vulkan driver; auto: the first card, else the "
      "CPU");
}

void add_stream_option(const Command& command, ModelArguments& arguments) {
  command.add_flag("--stream-layers", arguments.stream_layers,
                   "Keep the layers in the file and read them one at a time; so is a model that does not fit "
                   "into memory");
}

KvCacheType parse_kv_cache(const std::string& name) {
  return name == "f32"    ? KvCacheType::kF32
         : name == "f16"  ? KvCacheType::kF16
         : name == "int8" ? KvCacheType::kInt8
                          : KvCacheType::kAuto;
}

// Whether no matrix will have codes: then int8 has nothing to compute faster, and on AMX bf16 alone goes on
// tiles.
static bool is_plain(const ModelArguments& arguments) {
  if (arguments.model.empty() || !arguments.quantize.empty() || arguments.head != "keep") return false;
  try {
    const Checkpoint model(arguments.model);
    const std::vector<std::string> names = model.weight_names();
    return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
      const std::string type = model.stored_type(name);
      return type == "F32" || type == "F16" || type == "BF16";
    });
  } catch (const Error&) {
    return false;  // loading says what is wrong
  }
}

static void choose_precision(const ModelArguments& arguments, ModelOptions& options) {
  PrecisionChoice choice{options.precision, options.precision};
  std::string reason;
  if (arguments.precision != "auto") {
    choice = *parse_precisions(arguments.precision);
    reason = "as --precision says";
    if (arguments.one_precision && choice.one_row != choice.many_rows)
      throw UsageError(fmt::format("--precision {}: two precisions, one expected here", arguments.precision));
  } else if (options.device != "cpu") {
    reason = "this device computes in float32, and prompts with levels of codes in half precision";
  } else if (arguments.scoring) {
    reason = "the same on every machine, because this command scores";
  } else {
    const AutomaticPrecision automatic =
        automatic_precision(arguments.threads, !arguments.one_precision && is_plain(arguments));
    choice = automatic.choice;
    reason = automatic.reason;
    if (arguments.one_precision) choice.one_row = choice.many_rows;
  }
  options.precision = choice.one_row;
  if (choice.many_rows != choice.one_row) options.many_rows_precision = choice.many_rows;
  if (arguments.verbose)
    say(fmt::format("nfloat: {}, {}, --precision {}, {}\n",
                    options.device == "cpu" ? fmt::format("target {}", active_target())
                                            : fmt::format("device {}", options.device),
                    count_of(arguments.threads == 0 ? default_threads() : arguments.threads, "thread"),
                    precision_text(choice), reason));
}

PrecisionChoice precisions(const ModelOptions& options) noexcept {
  return {options.precision, options.many_rows_precision.value_or(options.precision)};
}

Precision parse_precision(const std::string& name) {
  return name == "f32" ? Precision::kF32 : name == "bf16" ? Precision::kBF16 : Precision::kInt8;
}

std::string device_text(const std::string& name) {
  const DeviceInfo device = device_info(name);
  return device.name == "cpu" ? fmt::format("cpu ({}, target {})", device.model, active_target())
                              : device_summary(device);
}

std::string chosen_device(const std::string& name) {
  try {
    return resolved_device(name);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    throw UsageError(error.what());
  }
}

void check_model_arguments(const ModelArguments& arguments) {
  ModelOptions ignored;
  if (!arguments.quantize.empty()) parse_quantize(arguments.quantize, ignored);
  if (arguments.double_quantization && arguments.quantize.empty())
    throw UsageError("--double-quantization goes with --quantize");
  parse_head(arguments.head);
  chosen_device(arguments.device);
}

ModelOptions library_options(const ModelArguments& arguments) {
  check_model_arguments(arguments);
  ModelOptions options;
  if (!arguments.quantize.empty()) parse_quantize(arguments.quantize, options);
  options.quantize_double = arguments.double_quantization;
  options.head = parse_head(arguments.head);
  options.device = chosen_device(arguments.device);
  choose_precision(arguments, options);
  options.threads = arguments.threads;
  options.stream_layers = arguments.stream_layers;
  if (!arguments.whole)
    run_by_ranks(arguments.ranks, options);
  else if (const std::shared_ptr<Ranks> ranks = joined_ranks(arguments.ranks))
    options.threads = threads_of_rank(*ranks, options.threads);
  return options;
}

std::vector<NamedPath> read_by(const ModelArguments& arguments) {
  std::vector<NamedPath> all{{model_folder(arguments.model)}};
  for (const std::string& adapter : arguments.lora) all.push_back({parse_adapter(adapter).folder, "--lora"});
  return all;
}

std::string model_folder(const std::string& path) {
  std::string found = resolve_model_path(path);
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(found, ignored) || is_gguf_path(found)) return found;
  if (found.ends_with(".safetensors"))
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}: weights alone; a model is a folder with its config.json and tokenizer: give the "
                    "folder",
                    path));
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{}: not a model; expected a folder with config.json, a GGUF file or a name org/model",
                  path));
}

static Model load_base(const ModelArguments& arguments) {
  ModelOptions options = library_options(arguments);
  ProgressBar bar("load", "GB");
  options.progress = [&bar](uint64_t done, uint64_t total) {
    if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while loading");
    bar.update(done, total, "");
  };
  const std::string folder = model_folder(arguments.model);
  try {
    return Model::load(folder, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory || !arguments.scoring || options.stream_layers ||
        options.ranks)
      throw;
    bar.finish();
    note("{}: its layers are read from the file, one at a time\n", one_line(error.what()));
  }
  options.stream_layers = true;
  return Model::load(folder, options);
}

Model load_model(const ModelArguments& arguments) {
  const Model model = load_base(arguments);
  tell_of_ranks(model);
  std::vector<AdapterChoice> adapters;
  for (const std::string& choice : arguments.lora) adapters.push_back(parse_adapter(choice));
  if (!adapters.empty())
    for (const std::string& note : attach_adapters(model, adapters)) warn(note);
  return model;
}

Model load_draft(ModelArguments arguments, const std::string& path, const Tokenizer& tokenizer) {
  arguments.model = path;
  arguments.lora.clear();
  const std::string folder = model_folder(path);
  check_same_tokens(Tokenizer::load(folder), tokenizer);
  return load_model(arguments);
}

std::string read_text(const std::string& path, size_t most) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Error(ErrorCode::kNotFound, fmt::format("{}: {}", path, std::strerror(errno)));
  std::string text;
  char part[1 << 16];
  size_t count;
  while (text.size() <= most && (count = std::fread(part, 1, sizeof part, file)) > 0)
    text.append(part, count);
  const bool failed = std::ferror(file) != 0;
  if (file != stdin) std::fclose(file);
  if (failed) throw Error(ErrorCode::kIo, fmt::format("{}: reading failed", path));
  if (text.size() > most)
    throw Error(ErrorCode::kMalformedFile, fmt::format("{}: more than {} MiB", path, most >> 20));
  return text;
}

uint64_t peak_memory_bytes() noexcept {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace nfloat::cli
