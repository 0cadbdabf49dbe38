// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks/best_numbers.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace nfloat {

void best_numbers(std::span<const float> row, int64_t count, std::vector<BestNumber>& best) {
  const auto wanted = std::min(static_cast<size_t>(count), row.size());
  if (wanted == 0) return;
  const size_t begin = best.size();
  const auto first = static_cast<std::ptrdiff_t>(begin), nth = first + static_cast<std::ptrdiff_t>(wanted);
  const auto better = [](const BestNumber& a, const BestNumber& b) {
    return a.value > b.value || (a.value == b.value && a.place < b.place);
  };
  // What is not above the worst of those kept is not one of the best: it has a later place.
  bool full = false;
  float worst = 0;
  const auto keep = [&] {
    std::nth_element(best.begin() + first, best.begin() + nth - 1, best.end(), better);
    best.resize(begin + wanted);
    worst = best.back().value;
    full = true;
  };
  for (size_t i = 0; i < row.size(); ++i) {
    const float value = row[i];
    if (std::isnan(value) || (full && !(value > worst))) continue;
    best.push_back({value, static_cast<int32_t>(i)});
    if (best.size() - begin == 2 * wanted) keep();
  }
  if (best.size() - begin > wanted) keep();
  best.resize(begin + wanted, {0, -1});
}

}  // namespace nfloat
