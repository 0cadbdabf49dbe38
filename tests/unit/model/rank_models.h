// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_MODEL_RANK_MODELS_H_
#define NFLOAT_TESTS_UNIT_MODEL_RANK_MODELS_H_

#include <memory>
#include <string>
#include <vector>

#include "nfloat/model.h"
#include "support/thread_ranks.h"

namespace nfloat::testing {

using Logits = std::vector<std::vector<float>>;  // by precision

// Logits of every token in each precision: the first ones one by one, the rest together.
inline Logits logits_of(const std::string& folder, const std::vector<int32_t>& tokens,
                        std::shared_ptr<Ranks> ranks, const std::vector<double>& shares,
                        ModelOptions options = {}) {
  options.ranks = std::move(ranks);
  options.rank_shares = shares;
  options.threads = 1;
  const Model model = Model::load(folder, options);
  Logits all;
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kInt8}) {
    std::vector<float>& logits = all.emplace_back();
    const auto keep = [&](size_t, int64_t, std::span<const float> row) {
      logits.insert(logits.end(), row.begin(), row.end());
    };
    Session session(model, {.precision = precision});
    for (size_t i = 0; i < 3; ++i) {
      const BatchEntry entry{&session, std::span(tokens).subspan(i, 1)};
      forward_batch({&entry, 1}, keep);
    }
    const BatchEntry entry{&session, std::span(tokens).subspan(3)};
    forward_batch({&entry, 1}, keep);
  }
  return all;
}

// The same by as many ranks as there are shares, each a thread: what each of them has.
inline std::vector<Logits> logits_by_ranks(const std::string& folder, const std::vector<int32_t>& tokens,
                                           const std::vector<double>& shares,
                                           const ModelOptions& options = {}) {
  const auto ranks = thread_ranks(static_cast<int>(shares.size()));
  std::vector<Logits> found(shares.size());
  on_each_rank(shares.size(),
               [&](size_t i) { found[i] = logits_of(folder, tokens, ranks[i], shares, options); });
  return found;
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_MODEL_RANK_MODELS_H_
