// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_EXPERT_CHOICE_H_
#define NFLOAT_ENGINE_EXPERT_CHOICE_H_

#include <cstdint>

#include "engine/layer_engine.h"

namespace nfloat {

// Chooses the experts of a row of router logits: their numbers in ascending order, and their weights; each
// has room for step.chosen.
void choose_experts(const MixtureStep& step, const float* logits, int32_t* chosen, float* weights) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_EXPERT_CHOICE_H_
