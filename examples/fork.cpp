// SPDX-License-Identifier: Apache-2.0
// Three endings of one beginning: the prompt goes through the model once, then the session is forked.
//   example_fork models/nfloat-tiny "Once upon a time"
#include <cstdio>

#include "nfloat/error.h"
#include "nfloat/model.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL TEXT\n", argv[0]);
    return 2;
  }
  try {
    const nfloat::Model model = nfloat::Model::load(argv[1]);
    const nfloat::Tokenizer tokenizer = nfloat::Tokenizer::load(argv[1]);
    const std::vector<int32_t> prompt = tokenizer.encode(argv[2]);
    nfloat::Session beginning(model);
    beginning.prefill(prompt);
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      nfloat::Session session = beginning.fork();
      nfloat::Sampler sampler({.temperature = 0.9f, .min_p = 0.05f, .seed = seed});
      std::vector<int32_t> ending;
      for (int i = 0; i < 20; ++i) {
        ending.push_back(sampler.sample(session.logits(), ending));
        session.decode(ending.back());
      }
      std::printf("%s%s\n", argv[2], tokenizer.decode(ending, true).c_str());
    }
  } catch (const nfloat::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
