// SPDX-License-Identifier: Apache-2.0
// tokenizer_bench TEXT_FILE TOKENIZER...: encoding and decoding a whole text on one thread; bytes are the
// text's. TOKENIZER is a model folder or a tokenizer file.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "nfloat/tokenizer.h"

namespace {

void encode(benchmark::State& state, const nfloat::Tokenizer& tokenizer, const std::string& text) {
  for (auto iteration : state) benchmark::DoNotOptimize(tokenizer.encode(text));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

void decode(benchmark::State& state, const nfloat::Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.encode(text, false);
  for (auto iteration : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc < 3) {
    std::fprintf(stderr, "tokenizer_bench [BENCHMARK OPTIONS] TEXT_FILE TOKENIZER...\n");
    return 1;
  }
  std::ifstream in(argv[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  try {
    for (int i = 2; i < argc; ++i) {
      const nfloat::Tokenizer tokenizer = nfloat::Tokenizer::load(argv[i]);
      const std::string name = argv[i];
      benchmark::RegisterBenchmark((name + " encode").c_str(),
                                   [=](benchmark::State& state) { encode(state, tokenizer, text); });
      benchmark::RegisterBenchmark((name + " decode").c_str(),
                                   [=](benchmark::State& state) { decode(state, tokenizer, text); });
    }
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tokenizer_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
