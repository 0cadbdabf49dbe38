// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_H_
#define NFLOAT_CALIBRATE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"
#include "nfloat/model_config.h"
#include "nfloat/quantize.h"

// 4-bit weights chosen by what the model does with a text, in the unchanged bitsandbytes file
// (docs/beyond.md).
namespace nfloat {

struct CalibrationOptions {
  // 1: each product by the inputs of the original model, errors fed back within a row. 2: also corrected for
  // what the layers before it, already quantized, changed; about four times the work.
  int level = 1;
  bool fast = false;  // no new coding of whole blocks: most of the gain in a third of the time
  int threads = 0;
  // Called before each layer, with the layer's number and their count; may throw to cancel.
  std::function<void(int64_t, int64_t)> progress = nullptr;
};

// How far the predictions on the held-back part of the text are from the original's: mean KL in nats.
struct CalibrationReport {
  int64_t tokens = 0;       // calibrated on
  int64_t held_tokens = 0;  // held back
  double plain_kl = 0;      // of signed scales with the least squared error
  double kl = 0;            // of the result
  int64_t tensors = 0;      // calibrated
  int64_t kept_plain = 0;   // of them, whose loss was not below that of the signed scales, which they keep
  double loss = 0;          // sums over all tensors of tr(R H R^T)
  double plain_loss = 0;    // the same for signed scales
};

struct Calibration {
  std::map<std::string, QuantizedTensor> tensors;  // by name in the checkpoint; [out, in]
  CalibrationReport report;
};

// Quantizes the matrices of the layers that `quantize` says are quantized, all double-quantized and nothing
// else: QuantizeCheckpointOptions::prepared takes them. `windows`: token ids, each window from an empty past;
// every tenth is held back. Layers are read from the checkpoint one at a time; the hidden states of all
// windows, float32, stay in memory (twice for level 2). The same result for every number of threads on one
// kind of processor. Throws kUnsupported (the model does not run), kInvalidArgument (fewer than two windows),
// kNotFinite naming the layer, and as Model::load.
NFLOAT_API Calibration calibrate(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                                 std::span<const std::vector<int32_t>> windows,
                                 const QuantizeCheckpointOptions& quantize,
                                 const CalibrationOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_H_
