// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_H_
#define NFLOAT_CALIBRATE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"
#include "nfloat/gguf.h"
#include "nfloat/model_config.h"
#include "nfloat/quantize.h"

// 4-bit weights chosen by what the model does with a text, in the unchanged bitsandbytes file
// (docs/beyond.md).
namespace nfloat {

// What a calibration will take, computed before it begins.
struct CalibrationEstimate {
  double operations = 0;      // of products, a multiply-add two
  double seconds = 0;         // by the rate of a product measured here and now; a busy machine needs more
  uint64_t memory_bytes = 0;  // at most, without the mapped files
  uint64_t states_bytes = 0;  // of hidden states on the disk, in CalibrationOptions::states_folder
};

// One layer's share of a result.
struct CalibratedLayer {
  std::map<std::string, QuantizedTensor> tensors;  // by name in the checkpoint; [out, in]
  std::map<std::string, GgufMatrix> blocks;        // of CalibrationOptions::gguf, instead of `tensors`
  int64_t kept_plain = 0;
  double loss = 0, plain_loss = 0;
};

struct CalibrationOptions {
  // 1: each product by the inputs of the original model, errors fed back within a row. 2: also corrected for
  // what the layers before it, already quantized, changed; about four times the work. 3: then codes, scales
  // and gains of norms follow the gradient of the KL from the original, for models whose training fits the
  // memory; its start sees the first 65,536 tokens.
  int level = 1;
  bool fast = false;  // no new coding of whole blocks: most of the gain in less time
  // llama.cpp's blocks instead of those that the other options say: Q4_0, IQ4_NL, Q4_K, Q5_K, Q6_K or IQ4_XS,
  // in the type that write_gguf gives each matrix for it. Not at level 3.
  std::optional<GgufType> gguf = std::nullopt;
  int threads = 0;
  // Calibrated on beside `windows`, in the same way, but none of it is held back: a little of other text
  // keeps what the windows do not show from getting worse. Must outlive the call.
  std::span<const std::vector<int32_t>> beside = {};
  // Hidden states that take more than `states_in_memory` bytes lie in a file in this folder, which has no
  // name and goes with the process; empty: in memory, whatever they take. The result is the same.
  std::string states_folder = {};
  uint64_t states_in_memory = uint64_t{1} << 30;
  // Asked many times a second, from any thread; true ends the work with kInterrupted. Must not throw.
  std::function<bool()> cancelled = nullptr;
  // Called once before the work; may throw to cancel.
  std::function<void(const CalibrationEstimate&)> estimated = nullptr;
  // Called before each layer, with the layer's number and their count; may throw to cancel.
  std::function<void(int64_t, int64_t)> progress = nullptr;
  // Of level 3: called before each step, with its number, their count and the mean KL on the held-back part
  // measured last; may throw to cancel.
  std::function<void(int64_t, int64_t, double)> distilling = nullptr;
  // Called after each layer but the earlier ones; with what it was given then as earlier(0), earlier(1) and
  // so on, of `earlier_layers` layers, a later run with the same input, windows and options begins behind
  // those layers and ends with the same result.
  std::function<void(const CalibratedLayer&)> finished = nullptr;
  int64_t earlier_layers = 0;
  std::function<CalibratedLayer(int64_t layer)> earlier = nullptr;
  // False: at levels 1 and 2 Calibration::tensors and blocks stay empty, and no more than one layer's are in
  // memory: `finished` has had them all.
  bool keep_tensors = true;
};

// How far the predictions on the held-back part of the text are from the original's: mean KL in nats.
struct CalibrationReport {
  int64_t tokens = 0;         // of the windows, calibrated on
  int64_t beside_tokens = 0;  // calibrated on beside them
  int64_t held_tokens = 0;    // held back
  double plain_kl = 0;        // of signed scales with the least squared error, of `gguf` of encode_gguf
  double kl = 0;              // of the result
  int64_t tensors = 0;        // calibrated, or blocks
  int64_t kept_plain = 0;     // of them, whose loss was not below that of the signed scales, which they keep
  double loss = 0;            // sums over all tensors of tr(R H R^T)
  double plain_loss = 0;      // the same for signed scales
  int64_t steps = 0;          // of level 3 behind which the result was taken; 0: its start was not worse
  double start_kl = 0;        // before them, of level 2
  int64_t changed_codes = 0;  // by them
};

struct Calibration {
  std::map<std::string, QuantizedTensor> tensors;  // of all layers; see keep_tensors
  std::map<std::string, GgufMatrix> blocks;        // likewise, of CalibrationOptions::gguf
  // Level 3: gains of norms, by name, of the checkpoint's types and shapes:
  // QuantizeCheckpointOptions::replaced takes them.
  std::map<std::string, Tensor> norms;
  CalibrationReport report;
};

// Quantizes the matrices of the layers that `quantize` says are quantized, all double-quantized and nothing
// else: QuantizeCheckpointOptions::prepared takes them. `windows`: token ids, each window from an empty past;
// every tenth is held back. Layers are read from the checkpoint one at a time; the hidden states of all
// windows, float32, stay in memory or in a file (twice for level 2). The same result for every number of
// threads on one kind of processor. Throws kUnsupported (the model does not run, level 3 of a mixture),
// kOutOfMemory with the numbers, kInvalidArgument (fewer than two windows), kNotFinite naming the layer,
// kMalformedFile (`earlier` is of another model), kInterrupted, and as Model::load.
NFLOAT_API Calibration calibrate(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                                 std::span<const std::vector<int32_t>> windows,
                                 const QuantizeCheckpointOptions& quantize,
                                 const CalibrationOptions& options = {});

// The finished layers of a calibration in a file, so that a run that was cut short goes on: a record a layer,
// on the disk when append() returns. What a killed run wrote half is passed over. The file belongs to one
// object, of all processes, at a time.
class NFLOAT_API CalibrationFile {
 public:
  // Opens `path` or makes it. `key` says what is calibrated, in any words: throws kAlreadyExists when the
  // file has another or belongs to another object, and for a link, a pipe or a file with several names;
  // kMalformedFile when it is not such a file, kIo.
  CalibrationFile(const std::string& path, const std::string& key, const QuantizeCheckpointOptions& quantize);
  const std::string& path() const noexcept { return path_; }
  int64_t layers() const noexcept { return static_cast<int64_t>(records_.size()); }
  // Throw kIo, kMalformedFile when the file was changed by others.
  CalibratedLayer layer(int64_t index) const;
  // Of any layer; null when there is none. From any thread. The layer that was asked for last is at hand.
  std::shared_ptr<const QuantizedTensor> tensor(const std::string& name) const;
  std::shared_ptr<const GgufMatrix> blocks(const std::string& name) const;
  // Whole or not at all.
  void append(const CalibratedLayer& layer);
  // Unless the name is another file's by now.
  void remove() noexcept;
  // Removes `path` where it is there. Throws kMalformedFile for what is not the state of a calibration,
  // kAlreadyExists for what belongs to an object, a link and a pipe, kIo.
  static void discard(const std::string& path);

 private:
  void cut_to(uint64_t bytes) const;
  void add(const CalibratedLayer& layer, uint64_t begin);
  std::shared_ptr<const CalibratedLayer> layer_of(const std::string& name) const;

  const std::string path_;
  const QuantizeCheckpointOptions quantize_;
  std::shared_ptr<const int> file_;        // its descriptor, locked
  std::vector<uint64_t> records_;          // where each begins
  uint64_t end_ = 0;                       // of the last one
  std::map<std::string, int64_t> places_;  // of tensors: layers
  mutable std::mutex mutex_;               // of what follows
  mutable int64_t at_hand_ = -1;
  mutable std::shared_ptr<const CalibratedLayer> layer_at_hand_;
};

// Identifies a checkpoint by names, types and shapes of its tensors and by samples of their bytes.
NFLOAT_API std::string checkpoint_fingerprint(const Checkpoint& checkpoint);

// A text to calibrate on where there is none of one's own: prose, talk and lists in several languages, code,
// tables; written for this project. UTF-8.
NFLOAT_API std::string_view general_calibration_text() noexcept;

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_H_
