// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_RANKS_BEST_NUMBERS_H_
#define NFLOAT_ENGINE_RANKS_BEST_NUMBERS_H_

#include <cstdint>
#include <span>
#include <vector>

namespace nfloat {

// As ranks exchange it.
struct BestNumber {
  float value;
  int32_t place;  // -1: none
};

// Adds the `count` largest of `row`, in no order; of equal ones the first. NaN counts as none: where there
// are fewer numbers, entries of place -1 make up for them, but for those that a shorter row could not have.
void best_numbers(std::span<const float> row, int64_t count, std::vector<BestNumber>& best);

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_RANKS_BEST_NUMBERS_H_
