// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_EXPERTS_H_
#define NFLOAT_MODEL_EXPERTS_H_

#include <cstdint>

#include "model/layer_executor.h"
#include "model/model_state.h"
#include "model/workspace.h"

namespace nfloat {

// The activation of `rows` rows of what gate_up gave, each `stride` floats apart, in place: `width` floats
// of each are left at its beginning.
void activate_rows(const ModelConfig& config, bool expert, float* gate_up, int64_t stride, int64_t width,
                   int64_t rows, int threads) noexcept;

// workspace.added = the mixture of workspace.normed, row by row. Only the weights of chosen experts are read,
// and each of them once for all the rows that chose it.
void mix_experts(const ModelConfig& config, int64_t layer, const LayerWeights& weights, Workspace& workspace,
                 int64_t rows, const RunOptions& options);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_EXPERTS_H_
