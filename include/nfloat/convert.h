// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_H_
#define NFLOAT_CONVERT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/quantize.h"
#include "nfloat/tensor.h"
#include "nfloat/tensor_role.h"

// Whole checkpoints, streamed: resident memory does not grow with the model (a few megabytes a thread, and
// the float32 scales of the tensors at work when they are double-quantized).
namespace nfloat {

struct ConvertProgress {
  uint64_t input_bytes_done = 0;
  uint64_t input_bytes_total = 0;
  size_t tensors_done = 0;
  size_t tensors_total = 0;
};

// Progress and cancellation of a conversion. Both functions are called from worker threads, one
// at a time; `cancelled` returning true ends the work with kInterrupted, the old output untouched.
struct ConvertControl {
  std::function<void(const ConvertProgress&)> progress;
  std::function<bool()> cancelled;
  int threads = 0;         // 0: the default (nfloat/threads.h)
  bool overwrite = false;  // only what is of the output's kind is replaced, or an empty file
  // Of a folder (quantize_checkpoint, dequantize_checkpoint, write_folder): OUT.partial keeps finished shards
  // when a run dies, and the next one with the same input and options goes on with them, unless `fresh`.
  bool fresh = false;
  // > 0: only shards part, part + parts, ... are made, into OUT.partial, where other processes or machines
  // make the others; `finish` makes OUT of them, and throws kNotFound where one is missing.
  int64_t part = 0, parts = 0;
  bool finish = false;
};

struct QuantizeCheckpointOptions {
  std::string format = "nf4";  // "nf4" or "fp4": what bitsandbytes stores
  QuantizeOptions quantize;
  DType storage = DType::kU8;     // of the packed codes: U8, BF16, F16, F32 hold the same bytes
  std::vector<std::string> skip;  // regular expressions (of PCRE2) searched in tensor names
  std::vector<std::string> only;
  // Weights with a block size of their own, by name; 0: stays plain. Loaders read the size with each weight.
  std::map<std::string, int64_t> block_sizes = {};
  // Weights that were quantized before (calibrate): stored as they are, by name; null for all others. Same
  // code, block size and double quantization as above, [out, in]. Asked for once, when its turn comes, from
  // any thread, and let go when it is written. May be empty.
  std::function<std::shared_ptr<const QuantizedTensor>(const std::string& name)> prepared = nullptr;
  // Plain tensors with other values, by name: of the input's type and shape; null for all others. May be
  // empty.
  std::function<const Tensor*(const std::string& name)> replaced = nullptr;
  bool quantize_experts = false;  // 3-D expert weights, companions on the parameter's own name
  int64_t block_size_of(const std::string& name) const {
    const auto found = block_sizes.find(name);
    return found == block_sizes.end() ? quantize.block_size : found->second;
  }
  // Where it is computed: "cuda", "cuda:N": absmax scales in blocks of 16 to 4096, a power of two, and the
  // same bytes; "", "cpu": the CPU.
  std::string device = {};
  std::string card = {};                 // Markdown added to README.md of a folder
  uint64_t shard_bytes = 5'000'000'000;  // a shard grows to this size at most, if no single weight is larger
};

// Why a tensor stays unchanged.
enum class KeptBecause : uint8_t {
  kNot,    // it is quantized
  kDtype,  // its element type is not quantizable
  kEmpty,
  kRank,         // of a single file: not 2-D
  kRole,         // loaders expect its role plain
  kSkipped,      // QuantizeCheckpointOptions::skip
  kNotSelected,  // QuantizeCheckpointOptions::only
  kChosen,       // QuantizeCheckpointOptions::block_sizes
  kNamedByList,  // loaders read an entry of the list of plain modules as its name too
};

// What happens to one tensor, and why.
struct TensorPlan {
  TensorInfo input;
  bool quantize = false;
  TensorRole role = TensorRole::kOther;  // in a model folder
  KeptBecause kept = KeptBecause::kNot;
  std::string reason;        // why it stays unchanged, in words
  bool transpose = false;    // a Conv1D, stored [in, out]
  int64_t block_size = 0;    // of what is quantized
  uint64_t bytes_after = 0;  // companions included
};

struct QuantizationPlan {
  std::vector<TensorPlan> tensors;
  std::vector<std::string> copied_files;  // tokenizer and so on
  std::vector<std::string> skip_modules;  // llm_int8_skip_modules: the linear layers that stay plain
  uint64_t bytes_before = 0;
  uint64_t bytes_after = 0;
  int64_t parameters = 0;
  int64_t quantized_parameters = 0;
};

struct ConvertResult {
  QuantizationPlan plan;
  std::vector<std::string> files;  // safetensors files written
  double seconds = 0;              // from the first read to the last write
  double sync_seconds = 0;         // until the data was on the disk; not in `seconds`
  size_t shards = 0;               // of the whole output
  size_t shards_before = 0;        // of them, finished by earlier runs and not made again
  size_t shards_damaged = 0;       // of them, no more what an earlier run wrote, and made again
  bool whole = false;              // the output is there: false of a part
  // Parameters that this run quantized or decoded on the device that was asked for; the others of them the
  // CPU.
  int64_t device_parameters = 0;
};

// Which tensors bitsandbytes and Transformers expect quantized: 2-D floating weights of linear layers, not
// the embeddings, not the output head, not routers. Of a single file every 2-D floating tensor is. Throws
// kInvalidArgument (options, expressions), kUnsupported (already quantized, and by what; what `device` cannot
// do), and what the device's name brings (resolved_device() in nfloat/model.h).
NFLOAT_API QuantizationPlan plan_quantization(const Checkpoint& input,
                                              const QuantizeCheckpointOptions& options);

// Writes `output` (a folder if the input is one, else a file) in the bitsandbytes layout: packed codes,
// scales, quant_map, quant_state; config.json's quantization_config, the index, and the folder's other files.
// The output appears whole or not at all. Throws also kAlreadyExists (OUT, or OUT.partial of another
// conversion), kIo (with the space needed), kNotFinite naming tensor and index, kInterrupted.
NFLOAT_API ConvertResult quantize_checkpoint(const Checkpoint& input, const std::string& output,
                                             const QuantizeCheckpointOptions& options,
                                             const ConvertControl& control = {});

// Throws what quantize_checkpoint would about its output, before work that comes before it; kIo where the
// disk has no room for `bytes`, the plan's bytes_after. Returns the path that it leads to, behind links and
// without a trailing slash.
NFLOAT_API std::string expect_quantize_output(const Checkpoint& input, const std::string& output,
                                              bool overwrite, uint64_t bytes = 0);

// The reverse: quantized weights become plain ones of `dtype` (F32, F16, BF16), plain tensors stay as they
// are, quantization_config is removed. Levels are those of the quant_type, as bitsandbytes' kernels have it.
// `device`: as in QuantizeCheckpointOptions; what it does not take the CPU decodes.
NFLOAT_API ConvertResult dequantize_checkpoint(const Checkpoint& input, const std::string& output,
                                               DType dtype, uint64_t shard_bytes = 5'000'000'000,
                                               const ConvertControl& control = {},
                                               const std::string& device = {});

// A fault of a checkpoint, or a warning about it.
struct Finding {
  bool error = false;  // a loader would fail or decode wrong values; else a warning
  std::string tensor;
  std::string text;
};

// Companions complete and consistent, quant_map the one that loaders use, scales and plain tensors without
// NaN and infinity, config.json in agreement, a tokenizer that opens; of a GGUF file its configuration and
// chat template too. Reads what it looks at once, in pieces, by all threads. Throws kIo, kInterrupted.
NFLOAT_API std::vector<Finding> check_checkpoint(const Checkpoint& checkpoint,
                                                 const ConvertControl& control = {});

// The error of a weight against its original, both as float32 values.
struct TensorError {
  std::string name;
  int64_t elements = 0;
  double squared_error = 0;     // sum
  double squared_original = 0;  // sum
  double max_error = 0;
  int64_t zeros = 0;       // exact zeros in the original
  int64_t zeros_kept = 0;  // of them, still exactly zero
  // Against the original with an adapter's change: sums of wanted^2 and of wanted * achieved change.
  double squared_change = 0;
  double change_product = 0;
  // 10 log10(squared_original / squared_error); infinity when equal, minus infinity when not measurable().
  double sqnr_db() const noexcept;
  bool measurable() const noexcept;  // false: values or their squares are too large for these sums
};

// Of several weights as of one, named "all" or, without those that are exact, "all that differ".
NFLOAT_API TensorError total_error(const std::vector<TensorError>& errors, bool inexact_only = false);

// Compares every weight of the two checkpoints, worst SQNR first. Throws kMalformedFile when names or shapes
// disagree, naming the first.
NFLOAT_API std::vector<TensorError> compare_checkpoints(const Checkpoint& checkpoint,
                                                        const Checkpoint& original,
                                                        const ConvertControl& control = {});

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_H_
