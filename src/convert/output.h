// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_OUTPUT_H_
#define NFLOAT_CONVERT_OUTPUT_H_

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/output_place.h"
#include "checkpoint/safetensors_writer.h"
#include "convert/partial_folder.h"
#include "convert/stream.h"
#include "nfloat/convert.h"
#include "nfloat/files.h"

namespace nfloat {

inline constexpr const char* kConfigName = "config.json";
inline constexpr int64_t kMaxBlockSize = int64_t{1} << 30;

// config.json of a folder with its keys in order; an empty object when there is none. Throws kMalformedFile.
Json parse_config(const Checkpoint& input);
// Whether there is one, though it may say nothing.
bool has_config(const Checkpoint& input);

// Throws kUnsupported for what another program quantized and Checkpoint does not show as values, and for an
// adapter, whose tensors are no weights. `mxfp4`: experts may be shown in MXFP4, since the output has a place
// for them.
void expect_own_weights(const Checkpoint& input, bool mxfp4 = false);
// Takes the description of quantized weights out of a configuration and out of those inside it.
void erase_quantization(Json& config);

// Files of a model folder that go along with the weights, those of sub-folders as "FOLDER/NAME": all but
// weights in any format, indices, config.json, descriptions of an adapter or of another program's codes and
// hidden ones. Of a GGUF file:
// those that are made from its metadata.
std::vector<std::string> other_files(const Checkpoint& input);

// What the weights take in the files, in blocks or not.
uint64_t stored_bytes(const Checkpoint& input);

enum class OutputKind {
  kFolder,  // of a checkpoint
  kSafetensors,
  kGguf,  // of a model
  kGgufAdapter,
};
// Throws kAlreadyExists unless `path` is of the kind of what is to replace it; an empty file is of any.
// `name` is what the caller calls it.
void expect_replaceable(const std::string& path, OutputKind kind, const std::string& name);

// The first bytes of a regular file; empty where it is none or cannot be read.
std::string beginning_of(const std::filesystem::path& path, size_t most_bytes);

// What is read of a checkpoint: for expect_checkpoint_apart().
std::vector<NamedPath> read_of(const Checkpoint& input);

// Checks that `output` may be written, and gives its path without a trailing slash. Throws kInvalidArgument,
// kAlreadyExists, kNotFound, kIo when the disk is too full.
std::string check_output(const Checkpoint& input, const std::string& output, OutputKind kind, bool overwrite,
                         uint64_t needed_bytes);

// What one weight of the input becomes: tensors declared together, in one shard.
struct OutputUnit {
  const TensorInfo* input = nullptr;
  std::vector<SafetensorsWriter::Declared> tensors;
  std::string late;  // name of its late tensor, if any
  uint64_t bytes = 0;
};

// Makes the job of unit `index`, whose tensors begin at `first` in `writer`; write_late gives its late
// tensor.
using JobMaker = std::function<std::unique_ptr<StreamJob>(
    size_t index, SafetensorsWriter& writer, size_t first, std::function<void(std::string)> write_late)>;

// Writes a whole checkpoint: shards, index, `config` (unless empty), other files; a single file when the
// input is one. `card` is added to README.md of a folder. With a `key`, a folder's finished shards outlive a
// run that dies, and parts can be made (PartialFolder); on_finished(unit) is called for each that an earlier
// run has made. Fills files, shards, whole and the seconds of the result.
void write_checkpoint(const Checkpoint& input, const std::string& output,
                      const std::vector<OutputUnit>& units, const JobMaker& make_job, const Json& config,
                      uint64_t shard_bytes, const ConvertControl& control, ConvertResult* result,
                      const std::string& card = {}, const ConversionKey& key = {},
                      const std::function<void(size_t unit)>& on_finished = nullptr);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_OUTPUT_H_
