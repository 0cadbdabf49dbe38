// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "commands.h"
#include "convert_options.h"
#include "nfloat/convert.h"
#include "nfloat/results.h"
#include "nfloat/text.h"
#include "notes.h"

namespace nfloat::cli {
namespace {

struct Options {
  std::string input, output, dtype = "bf16", shard_size = "5GB", device;
  bool overwrite = false, json = false;
  int threads = 0;
  PartOptions parts;
};

void run(const Options& options) {
  DType dtype = DType::kBF16;
  parse_dtype(options.dtype, &dtype);
  const std::string device = conversion_device(options.device);
  const uint64_t shard_bytes = parse_bytes(options.shard_size, "--shard-size");
  const Checkpoint input(resolve_model_path(options.input), {.decoded = DType::kF32});
  catch_interrupts();
  const auto bar = std::make_shared<ProgressBar>("dequantize", "GB");
  const ConvertControl control = control_with_progress(bar, options.threads, options.overwrite);
  const ConvertResult result =
      convert_in_parts(options.parts, control, "dequantize", [&](const ConvertControl& own) {
        return dequantize_checkpoint(input, options.output, dtype, shard_bytes, own, device);
      });
  bar->finish();
  const double rate = static_cast<double>(result.plan.bytes_after) / 1e9 / std::max(result.seconds, 1e-9);
  if (options.json) {
    fmt::print("{}\n", dequantize_json(result));
    return;
  }
  if (const std::string told = part_sentence(result, options.parts, options.output); !told.empty())
    note("dequantize: {}\n", told);
  if (!result.whole) return;
  fmt::print("{}: {}, of which {} {} quantized, {} -> {} ({}), {:.2f} s at {:.2f} GB/s of output\n",
             printable(options.output), count_of(result.plan.parameters, "parameter"),
             result.plan.quantized_parameters, result.plan.quantized_parameters == 1 ? "was" : "were",
             format_bytes(result.plan.bytes_before), format_bytes(result.plan.bytes_after), dtype_name(dtype),
             result.seconds, rate);
  if (device != "cpu") fmt::print("{}\n", on_device_sentence(result, device, "decoded"));
}

}  // namespace

void add_dequantize_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("dequantize", "Convert a 4-bit checkpoint back to 16 or 32 bits");
  command.footer(
      "Example:\n"
      "  nfloat dequantize ./Llama-3.2-1B-nf4 ./Llama-3.2-1B-back --dtype bf16\n"
      "Quantized weights become plain tensors; tensors that were plain stay as they are; quantization_config "
      "is removed\n"
      "from config.json.");
  command.add_option("IN", options->input, "Folder or .safetensors file in the bitsandbytes 4-bit layout")
      .required();
  command.add_option("OUT", options->output, "Folder to make (a file when IN is a file)").required();
  command.add_option("--dtype", options->dtype, "Type of the dequantized weights")
      .one_of({"bf16", "f16", "f32"})
      .show_default();
  command.add_option("--shard-size", options->shard_size, "Largest size of an output file").show_default();
  add_part_options(command, options->parts);
  command.add_option("--threads", options->threads, "Threads; 0: all cores").between(0, 1024).show_default();
  command.add_option(
      "--device", options->device,
      "cpu, cuda or cuda:N: blocks of 16 to 4096, a power of two, to the same bytes, others on "
      "the CPU; auto: the CPU");
  command.add_flag("--overwrite", options->overwrite, "Replace OUT when the new one is whole");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
