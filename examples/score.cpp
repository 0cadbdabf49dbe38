// SPDX-License-Identifier: Apache-2.0
// Which of several texts does a model find the most likely? All are scored in one batch: each weight is read
// once.
//   example_score models/nfloat-tiny "The king sat on his throne." "The throne sat on his king."
#include <cstdio>
#include <vector>

#include "nfloat/error.h"
#include "nfloat/model.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s MODEL TEXT...\n", argv[0]);
    return 2;
  }
  try {
    const nfloat::Model model = nfloat::Model::load(argv[1]);
    const nfloat::Tokenizer tokenizer = nfloat::Tokenizer::load(argv[1]);
    const size_t count = static_cast<size_t>(argc - 2);
    std::vector<std::vector<int32_t>> tokens;
    std::vector<nfloat::Session> sessions;
    for (size_t i = 0; i < count; ++i) {
      tokens.push_back(tokenizer.encode(argv[i + 2]));
      sessions.emplace_back(model);
    }
    std::vector<nfloat::BatchEntry> batch;
    for (size_t i = 0; i < count; ++i) batch.push_back({&sessions[i], tokens[i]});

    std::vector<double> scores(count);  // natural log-likelihood of all tokens but the first
    nfloat::forward_batch(batch, [&](size_t entry, int64_t index, std::span<const float> logits) {
      const size_t next = static_cast<size_t>(index) + 1;
      if (next < tokens[entry].size()) scores[entry] += nfloat::log_probability(logits, tokens[entry][next]);
    });
    for (size_t i = 0; i < count; ++i) std::printf("%8.2f  %s\n", scores[i], argv[i + 2]);
  } catch (const nfloat::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
