// SPDX-License-Identifier: Apache-2.0
// Continues a text with a model quantized to NF4 while it loads.
//   example_generate models/nfloat-tiny "The old lighthouse"
#include <cstdio>

#include "nfloat/codebook.h"
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
    nfloat::ModelOptions options;
    options.quantize = nfloat::make_codebook("nf4");
    const nfloat::Model model = nfloat::Model::load(argv[1], options);
    const nfloat::Tokenizer tokenizer = nfloat::Tokenizer::load(argv[1]);

    std::vector<int32_t> tokens = tokenizer.encode(argv[2]);
    nfloat::Session session(model);
    nfloat::Sampler sampler({.temperature = 0.8f, .top_p = 0.95f, .seed = 1});
    nfloat::TokenStream stream(tokenizer);  // never prints half a character

    std::printf("%s", argv[2]);
    std::span<const float> logits = session.prefill(tokens);
    for (int i = 0; i < 40; ++i) {
      tokens.push_back(sampler.sample(logits, tokens));
      std::printf("%s", stream.push(tokens.back()).c_str());
      logits = session.decode(tokens.back());
    }
    std::printf("%s\n", stream.flush().c_str());
  } catch (const nfloat::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
