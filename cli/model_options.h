// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_MODEL_OPTIONS_H_
#define NFLOAT_CLI_MODEL_OPTIONS_H_

#include <string>
#include <vector>

#include "command_line.h"
#include "nfloat/adapter.h"
#include "nfloat/files.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"
#include "rank_options.h"

namespace nfloat::cli {

// What every subcommand that runs a model asks for.
struct ModelArguments {
  std::string model;
  std::string quantize;  // CODE[:BLOCK]
  bool double_quantization = false;
  std::string head = "keep";
  std::string precision = "auto";
  // auto: the model's default precision, the same on every machine; otherwise what is faster here.
  bool scoring = false;
  bool one_precision = false;  // for every number of rows: auto takes that of many, two are refused
  bool verbose = false;
  std::string kv_cache = "auto";
  int threads = 0;
  std::string device;
  bool stream_layers = false;
  std::vector<std::string> lora;  // DIR or DIR:WEIGHT
  RankArguments ranks;
  bool whole = false;  // every rank of mpirun loads all of it
};

// Declares MODEL and its options; `model_required` is false where something else can take its place.
void add_model_options(const Command& command, ModelArguments& arguments, bool model_required = true);

// --device of every command that has it.
void add_device_option(const Command& command, std::string& device);
// The device that it names, or NFLOAT_DEVICE where it is empty. Throws UsageError for what is no name of one,
// Error where it is not there.
std::string chosen_device(const std::string& name);

// "vulkan:0 (NVIDIA H100)"; of the CPU its instruction set, too.
std::string device_text(const std::string& name);
// The same for the library. Throws UsageError or Error.
// Throws for options that no model can be loaded with, before one is looked at.
void check_model_arguments(const ModelArguments& arguments);
ModelOptions library_options(const ModelArguments& arguments);
KvCacheType parse_kv_cache(const std::string& name);
Precision parse_precision(const std::string& name);
PrecisionChoice precisions(const ModelOptions& options) noexcept;

// --stream-layers, of commands that run many tokens in one pass.
void add_stream_option(const Command& command, ModelArguments& arguments);

// Loads with a progress bar; Ctrl-C stops it. A model to be scored that does not fit into memory is streamed,
// which is said.
Model load_model(const ModelArguments& arguments);

// A smaller model that guesses for the one of `tokenizer`, with the same options but without adapters. Throws
// Error: it has other tokens.
Model load_draft(ModelArguments arguments, const std::string& path, const Tokenizer& tokenizer);

// DIR or DIR:WEIGHT.
AdapterChoice parse_adapter(const std::string& text);

// What is read of the model and its adapters: folders and files that no output may replace.
std::vector<NamedPath> read_by(const ModelArguments& arguments);

// The folder or GGUF file that `path` names. Throws Error where it is another file.
std::string model_folder(const std::string& path);

// A whole file, or standard input for "-". Throws kNotFound, kIo, or kMalformedFile above `most` bytes.
std::string read_text(const std::string& path, size_t most);

// The most memory this process has held so far, in bytes.
uint64_t peak_memory_bytes() noexcept;

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_MODEL_OPTIONS_H_
