// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_EXPERT_CHOICE_H_
#define NFLOAT_ENGINE_EXPERT_CHOICE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/layer_engine.h"

namespace nfloat {

// Chooses the experts of a row of router logits: their numbers in ascending order, and their weights; each
// has room for step.chosen.
void choose_experts(const MixtureStep& step, const float* logits, int32_t* chosen, float* weights) noexcept;

// Places among the choices of all rows, by expert; valid while the memory that was given is.
struct ExpertGroups {
  const int64_t* bounds = nullptr;  // of an expert's places, and of the next one's
  const int64_t* places = nullptr;

  std::span<const int64_t> of(int64_t expert) const noexcept {
    return {places + bounds[expert], places + bounds[expert + 1]};
  }
};

// Where each expert is in `chosen`, in ascending order. Memory grows to what is needed.
ExpertGroups group_by_expert(std::span<const int32_t> chosen, int64_t experts, std::vector<int64_t>& memory);

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_EXPERT_CHOICE_H_
