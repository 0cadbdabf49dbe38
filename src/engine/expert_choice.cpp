// SPDX-License-Identifier: Apache-2.0
#include "engine/expert_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nfloat {

void choose_experts(const MixtureStep& step, const float* logits, int32_t* chosen, float* weights) noexcept {
  const auto experts = static_cast<int64_t>(step.experts.size());
  // Insertion keeps the largest first; of equal ones the first expert wins.
  int64_t count = 0;
  for (int64_t e = 0; e < experts; ++e) {
    int64_t place = count;
    while (place > 0 && logits[e] > logits[chosen[place - 1]]) --place;
    if (place == step.chosen) continue;
    count = std::min(count + 1, step.chosen);
    for (int64_t i = count - 1; i > place; --i) chosen[i] = chosen[i - 1];
    chosen[place] = static_cast<int32_t>(e);
  }
  const float largest = logits[chosen[0]];
  double total = 0;
  if (step.normalize)
    for (int64_t i = 0; i < count; ++i) total += std::exp(static_cast<double>(logits[chosen[i]] - largest));
  else
    for (int64_t e = 0; e < experts; ++e) total += std::exp(static_cast<double>(logits[e] - largest));
  std::sort(chosen, chosen + count);
  for (int64_t i = 0; i < count; ++i)
    weights[i] = static_cast<float>(std::exp(static_cast<double>(logits[chosen[i]] - largest)) / total);
}

ExpertGroups group_by_expert(std::span<const int32_t> chosen, int64_t experts, std::vector<int64_t>& memory) {
  const auto bounds = static_cast<size_t>(experts) + 1;
  if (memory.size() < bounds + chosen.size()) memory.resize(bounds + chosen.size());
  int64_t* const ends = memory.data();
  int64_t* const places = ends + bounds;
  std::fill_n(ends, bounds, 0);
  for (const int32_t expert : chosen) ++ends[expert];
  std::partial_sum(ends, ends + bounds, ends);
  // From the last one on, so that ends become beginnings and places ascend.
  for (size_t i = chosen.size(); i-- > 0;) places[--ends[chosen[i]]] = static_cast<int64_t>(i);
  return {ends, places};
}

}  // namespace nfloat
