// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_H_
#define NFLOAT_BRIDGE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"
#include "nfloat/gguf.h"
#include "nfloat/imatrix.h"
#include "nfloat/ranks.h"

// Whole models between Hugging Face folders (plain or bitsandbytes 4-bit) and GGUF files, streamed as
// convert.h does.
namespace nfloat {

struct BridgeOptions {
  // Type of the matrices; absent: unchanged (4-bit ones of bitsandbytes in the type they decode to, block
  // types of GGUF in bf16). GGUF files: types for which is_encodable is true; folders: F32, F16, BF16.
  std::optional<GgufType> type;
  uint64_t part_bytes = 0;  // largest file, unless a single tensor is larger; 0: one GGUF file
  bool check = false;       // read the result back and compare it
  // Folders: what an earlier run has made is read again in the input, so that the result tells of it too.
  bool measure_finished = true;
  // Folder of a LoRA adapter (PEFT: adapter_config.json, adapter_model.safetensors) to add to the weights;
  // "": none.
  std::string lora = {};
  double lora_weight = 1;  // what it adds counts so many times; adapters that do more than add: 1
  // Folders made from bitsandbytes ones: 4-bit weights stay 4-bit. Those that the adapter changes are
  // quantized again, with the code, block size and layout that they had, `scale` choosing the scales; all
  // others keep their bytes. Not together with type and check.
  bool keep_packed = false;
  ScaleMethod scale = ScaleMethod::kAbsmax;
  // With keep_packed and lora: folder of the plain model that the 4-bit one was made from; "": none. Weights
  // that the adapter changes are then sums with the plain ones. A sum with 4-bit values lies near the levels
  // that it came from, and rounding takes most of a small change away.
  std::string original = {};
  // GGUF files: weights that were quantized before (Calibration::blocks), by their name in the checkpoint,
  // [out, in], of the type that the file has them in; null for all others. Asked for when a tensor's turn
  // comes, from any thread, and let go when it is written. May be empty. Not together with lora.
  std::function<std::shared_ptr<const GgufMatrix>(const std::string& name)> prepared = nullptr;
  // GGUF files: by which the errors of the columns count where scales are searched for; null: all alike.
  std::shared_ptr<const ImportanceMatrix> importance = nullptr;
  // GGUF files: ranks that make one together on a disk that all see, each some of its tensors, byte for byte;
  // all call write_gguf with the same arguments. Of tensors that are another's the result tells no errors.
  std::shared_ptr<Ranks> ranks = nullptr;
};

// The result for one tensor.
struct BridgeTensor {
  std::string name;           // in the output
  std::string before, after;  // "nf4", "BF16", "Q4_0"
  int64_t elements = 0;
  uint64_t bytes = 0;               // after
  double squared_error = 0;         // sum, against the values of the input in float32
  double squared_original = 0;      // sum; 0 for an exact result, where it is not computed
  double sqnr_db() const noexcept;  // infinity for an exact result
  // NaN and infinite values of an output of plain floats, which the sums leave out; the element of the first,
  // -1 without one.
  int64_t not_finite = 0, first_not_finite = -1;
  // Of an adapter's change that was quantized again: sums of wanted^2 and of wanted * achieved change; else
  // 0.
  double squared_change = 0;
  double change_product = 0;
  // The share that remains, <achieved, wanted> / <wanted, wanted>, and |achieved - wanted| / |wanted|.
  double adapter_left() const noexcept;
  double adapter_error() const noexcept;
};

struct BridgeResult {
  std::vector<std::string> files;
  std::vector<BridgeTensor> tensors;  // in the output's order
  std::vector<std::string> notes;     // what the output cannot represent, besides precision
  uint64_t bytes_before = 0, bytes_after = 0;
  int64_t parameters = 0;
  size_t merged = 0;    // weights that the adapter changed
  size_t weighted = 0;  // tensors whose scales an importance matrix chose
  double seconds = 0;
  double sync_seconds = 0;   // until the data was on the disk
  double check_seconds = 0;  // of reading it again
  size_t shards = 0;         // of a folder; as ConvertResult's
  size_t shards_before = 0;
  size_t shards_damaged = 0;
  bool whole = false;  // the output is there: false of a part of a folder
};

// Writes a GGUF file that llama.cpp runs: names, order of rows, metadata, tokenizer and chat template as it
// expects them. `output` ends in ".gguf"; with part_bytes it may become "NAME-00001-of-00003.gguf" and so on.
// Norms, biases and routers are F32; embedding and head of 4-bit files Q8_0; rows that are not whole blocks
// F16. The input is a checkpoint with its configuration, a GGUF file too. Throws kUnsupported (a model that
// llama.cpp does not have), kNotFinite (values that the type cannot hold, naming tensor and place), and what
// quantize_checkpoint throws; kInvalidArgument for an importance matrix of another model. Experts in MXFP4
// stay so where CheckpointOptions::keep_mxfp4 shows them.
NFLOAT_API BridgeResult write_gguf(const Checkpoint& input, const std::string& output,
                                   const BridgeOptions& options, const ConvertControl& control = {});

// The reverse: a plain Hugging Face folder of a GGUF file, its configuration and tokenizer made from the
// metadata, or of a bitsandbytes one. With a type every floating tensor becomes it; without, plain ones stay
// as they are, those in blocks become BF16. Open the input with CheckpointOptions::decoded F32: what is lost
// is measured against that. part_bytes 0: shards of 5 GB. Throws kInvalidArgument (a type that folders do not
// have; keep_packed without 4-bit weights; an original that the 4-bit weights are not near to), kNotFinite,
// and what dequantize_checkpoint throws. In parts, and resumed, as those are (ConvertControl); of a part the
// result tells of its tensors alone, and nothing is checked.
NFLOAT_API BridgeResult write_folder(const Checkpoint& input, const std::string& output,
                                     const BridgeOptions& options, const ConvertControl& control = {});

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_H_
