// SPDX-License-Identifier: Apache-2.0
#include "tune/over_ranks.h"

#include <algorithm>
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

// Of each module its owner, of which there is one a rank in turn, gives floats, and all take them.
// give(module): where its parts are; take(module, floats): those of another rank's.
template <typename Give, typename Take>
void gather_from_owners(Ranks& ranks, const Adapter& adapter, size_t floats_each, const Give& give,
                        const Take& take) {
  const auto count = static_cast<size_t>(ranks.count()), own = static_cast<size_t>(ranks.rank());
  std::vector<float> mine, all;
  for (size_t first = 0; first < adapter.modules.size(); first += count) {
    std::vector<size_t> sizes(count);
    size_t sum = 0;
    for (size_t i = 0; i < count && first + i < adapter.modules.size(); ++i) {
      const LoraModule& module = adapter.modules[first + i];
      const size_t floats = floats_each * (module.a.size() + module.b.size() + module.magnitude.size());
      sizes[i] = floats * sizeof(float);
      sum += floats;
    }
    mine.clear();
    if (first + own < adapter.modules.size())
      for (const std::vector<float>* part : give(first + own))
        mine.insert(mine.end(), part->begin(), part->end());
    all.resize(sum);
    ranks.gather(mine.data(), sizes, all.data());
    const float* from = all.data();
    for (size_t i = 0; i < count; ++i) {
      if (i != own && sizes[i] > 0) take(first + i, from);
      from += sizes[i] / sizeof(float);
    }
  }
}

void take_part(std::vector<float>& to, const float*& from) {
  std::copy(from, from + to.size(), to.begin());
  from += to.size();
}

}  // namespace

void expect_same_run(Ranks& ranks, const Json& identity) {
  const std::vector<std::string> all = ranks.gather_texts(identity.dump(-1, Json::Invalid::kReplace));
  for (size_t i = 1; i < all.size(); ++i)
    if (all[i] != all[0]) {
      ranks.all_fail();
      fail(ErrorCode::kInvalidArgument, "{} trains on other rows, weights or options than {}",
           ranks.name(static_cast<int>(i)), ranks.name(0));
    }
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

void share_step(Ranks& ranks, Adapter& adapter) {
  using Parts = std::vector<const std::vector<float>*>;
  gather_from_owners(
      ranks, adapter, 1,
      [&](size_t i) {
        const LoraModule& module = adapter.modules[i];
        return Parts{&module.a, &module.b, &module.magnitude};
      },
      [&](size_t i, const float* from) {
        LoraModule& module = adapter.modules[i];
        for (std::vector<float>* part : {&module.a, &module.b, &module.magnitude}) take_part(*part, from);
        module.refresh();
      });
}

std::vector<AdamW::Pair> gather_moments(Ranks& ranks, const Adapter& adapter, const AdamW& optimizer) {
  using Parts = std::vector<const std::vector<float>*>;
  std::vector<AdamW::Pair> whole;
  if (ranks.rank() == 0) {
    whole = AdamW(adapter).moments();
    for (size_t i = 0; i < whole.size(); ++i)
      if (optimizer.owns(i)) whole[i] = optimizer.moments()[i];
  }
  gather_from_owners(
      ranks, adapter, 2,
      [&](size_t i) {
        const AdamW::Pair& own = optimizer.moments()[i];
        return Parts{&own.a.m, &own.a.v, &own.b.m, &own.b.v, &own.magnitude.m, &own.magnitude.v};
      },
      [&](size_t i, const float* from) {
        if (whole.empty()) return;
        AdamW::Pair& to = whole[i];
        for (AdamW::Moments* moments : {&to.a, &to.b, &to.magnitude}) {
          take_part(moments->m, from);
          take_part(moments->v, from);
        }
      });
  return whole;
}

}  // namespace nfloat
