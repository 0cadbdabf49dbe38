// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_TRAIN_MEMORY_H_
#define NFLOAT_TUNE_TRAIN_MEMORY_H_

#include <cstdint>
#include <span>

#include "nfloat/model_config.h"
#include "tune/adapter.h"

namespace nfloat {

// What memory depends on of a trained module.
struct PlannedModule {
  int64_t layer;
  Place place;
  int64_t padded;  // rank
};

// Rows of logits that exist at once.
int64_t head_slice_rows(int64_t vocabulary) noexcept;

// Whether what products read and give may be kept in bf16 by a pass that multiplies in it: on targets that
// multiply pairs and have no matrix unit, rows of whole octets and heads of whole pairs, without dropout.
bool halves_may_be_kept(const ModelConfig& config, double dropout) noexcept;

// Pass::bytes() of a pass that is not made; `halves`: which keeps them.
uint64_t pass_bytes(const ModelConfig& config, std::span<const PlannedModule> modules, bool dora, bool halves,
                    Recompute level, int64_t rows);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_TRAIN_MEMORY_H_
