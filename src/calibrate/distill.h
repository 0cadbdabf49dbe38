// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_DISTILL_H_
#define NFLOAT_CALIBRATE_DISTILL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nfloat/checkpoint.h"
#include "nfloat/model_config.h"
#include "nfloat/quantize.h"

// Level 3: codes, scales and gains of norms follow the gradient of the divergence of the whole quantized
// model from the original.
namespace nfloat {

using TokenSequences = std::vector<std::span<const int32_t>>;

struct DistillInput {
  std::shared_ptr<const Checkpoint> checkpoint;
  const ModelConfig& config;
  const std::map<std::string, QuantizedTensor>& start;  // double-quantized
  const TokenSequences& trained;
  const TokenSequences& held;  // to judge by
  int threads = 1;
};

struct Distilled {
  std::map<std::string, QuantizedTensor> tensors;
  std::map<std::string, Tensor> norms;  // as the checkpoint stores them
  int64_t steps = 0;                    // that `tensors` have seen; 0: the start was the best
  double start_kl = 0, kl = 0;          // on `held`, nats a token
  int64_t changed_codes = 0;
};

// How much there is to do; known before the start is.
struct DistillPlan {
  int64_t steps = 0, tokens = 0;  // tokens of all steps
  int64_t rows = 0;               // of a step at most
  uint64_t memory_bytes = 0;      // at least, beside the mapped file
};
// `weights`: of the matrices that are quantized. Throws kUnsupported for models without a backward pass.
DistillPlan plan_distillation(const ModelConfig& config, double weights, const TokenSequences& trained,
                              const TokenSequences& held);

// `progress`: before each step, with its number, the number of steps and the divergence on `held` measured
// last; may throw to cancel; CancelScope's question is asked too. The same result for every number of
// threads. Throws kOutOfMemory, kNotFinite.
Distilled distill(const DistillInput& input, const DistillPlan& plan,
                  const std::function<void(int64_t, int64_t, double)>& progress);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_DISTILL_H_
