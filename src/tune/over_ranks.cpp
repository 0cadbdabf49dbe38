// SPDX-License-Identifier: Apache-2.0
#include "tune/over_ranks.h"

#include <vector>

#include "base/fail.h"

namespace nfloat {
namespace {

template <typename T>
void add_over_ranks(Ranks& ranks, std::span<T> values, std::vector<T>& all) {
  if (values.empty()) return;
  const auto count = static_cast<size_t>(ranks.count());
  all.resize(count * values.size());
  const std::vector<size_t> sizes(count, values.size_bytes());
  ranks.gather(values.data(), sizes, all.data());
  for (size_t i = 0; i < values.size(); ++i) {
    T sum = all[i];
    for (size_t rank = 1; rank < count; ++rank) sum += all[rank * values.size() + i];
    values[i] = sum;
  }
}

}  // namespace

void expect_same_run(Ranks& ranks, const Json& identity) {
  const std::vector<std::string> all = ranks.gather_texts(identity.dump(-1, Json::Invalid::kReplace));
  for (size_t i = 1; i < all.size(); ++i)
    if (all[i] != all[0])
      fail(ErrorCode::kInvalidArgument, "{} trains on other rows, weights or options than {}",
           ranks.name(static_cast<int>(i)), ranks.name(0));
}

void add_over_ranks(Ranks& ranks, Adapter& adapter, double& loss) {
  std::vector<float> all;
  for (LoraModule& module : adapter.modules)
    for (std::vector<float>* gradient :
         {&module.a_gradient, &module.b_transposed_gradient, &module.magnitude_gradient})
      add_over_ranks(ranks, std::span(*gradient), all);
  std::vector<double> losses;
  add_over_ranks(ranks, std::span(&loss, 1), losses);
}

}  // namespace nfloat
