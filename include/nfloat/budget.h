// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BUDGET_H_
#define NFLOAT_BUDGET_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"
#include "nfloat/model_config.h"

// A block size for each weight of a model, or none and plain, by what the model loses with it: what each
// weight costs alone adds up (docs/beyond.md).
namespace nfloat {

// One way to store a weight.
struct BlockChoice {
  int64_t block_size = 0;  // 0: plain
  uint64_t bytes = 0;      // companions included
  double divergence = 0;   // mean KL in nats of the model with only this weight quantized, signed scales
};

// Weights that are stored in one way: one, or the same part of all experts of a layer.
struct WeightSensitivity {
  std::vector<std::string> names;
  std::vector<BlockChoice> choices;  // more bytes, less divergence
};

struct SensitivityOptions {
  std::vector<int64_t> block_sizes = {128, 64, 32};  // plain is one more choice
  int64_t tokens = 2048;                             // to judge by, at least a window
  int threads = 0;
  // Asked many times a second, from any thread; true ends the work with kInterrupted. Must not throw.
  std::function<bool()> cancelled = nullptr;
  // Called before each pass through the rest of the model, with its number and their count; may throw.
  std::function<void(int64_t, int64_t)> progress = nullptr;
};

// Runs the model once for each weight that `quantize` says is quantized, from the weight's layer on; other
// block sizes than the middle one are judged by what they change in the weight's products. Layers are read
// one at a time. The same result for every number of threads on one kind of processor. Throws as calibrate().
NFLOAT_API std::vector<WeightSensitivity> measure_sensitivity(std::shared_ptr<const Checkpoint> checkpoint,
                                                              const ModelConfig& config,
                                                              std::span<const std::vector<int32_t>> windows,
                                                              const QuantizeCheckpointOptions& quantize,
                                                              const SensitivityOptions& options = {});

// What the quantized model may be: one of them.
struct QuantizationLimit {
  std::optional<uint64_t> bytes = std::nullopt;     // of all files of weights
  std::optional<double> bits = std::nullopt;        // a weight, over the matrices that can be quantized
  std::optional<double> divergence = std::nullopt;  // sum of BlockChoice::divergence
};

struct BlockSizes {
  std::map<std::string, int64_t> sizes;  // QuantizeCheckpointOptions::block_sizes takes them
  double divergence = 0;                 // sum over the weights
  double bits = 0;                       // a weight of the matrices
};

// The least divergence that the limit allows, or the least bytes: from the smallest on, always the step that
// gains most for its bytes. Throws kInvalidArgument with what is the least that there is.
NFLOAT_API BlockSizes choose_block_sizes(const Checkpoint& checkpoint,
                                         std::span<const WeightSensitivity> weights,
                                         const QuantizeCheckpointOptions& quantize,
                                         const QuantizationLimit& limit);

// About what calibration at a level leaves of the divergence of signed scales.
NFLOAT_API double calibrated_share(int level) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_BUDGET_H_
