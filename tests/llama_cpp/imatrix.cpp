// SPDX-License-Identifier: Apache-2.0
// imatrix MODEL TEXT CONTEXT CHUNKS THEIRS... FOLDER: importance matrices that llama.cpp's own program made
// of that many chunks of the text, in both forms, beside what is measured here on the same tokens; what was
// measured is written to FOLDER/ours.gguf and ours.dat for that program to read. Exit status 1 where a mean
// square differs by more than float32 sums in another order may.
#include "nfloat/imatrix.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "nfloat/tokenizer.h"

namespace {

// Of a mean square. Both sum in float32 over hundreds of tokens, of states that six layers have rounded.
constexpr double kMostApart = 1e-4;

double largest_difference(const nfloat::ImportanceMatrix& own, const nfloat::ImportanceMatrix& theirs) {
  if (own.tensors.size() != theirs.tensors.size()) return INFINITY;
  double most = 0;
  for (const auto& [name, found] : own.tensors) {
    const auto other = theirs.tensors.find(name);
    if (other == theirs.tensors.end() || other->second.sums.size() != found.sums.size()) return INFINITY;
    const size_t columns = found.columns();
    const std::vector<float> a = found.means(0, columns), b = other->second.means(0, columns);
    for (size_t i = 0; i < columns; ++i) {
      const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
      const double apart = std::fabs(x - y) / std::fmax(y, 1e-30);
      if (!(apart <= most)) most = apart;
    }
  }
  return most;
}

int judge(const std::vector<std::string>& arguments) {
  const std::string &model = arguments[0], &folder = arguments.back();
  std::ifstream file(arguments[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto context = static_cast<size_t>(std::atoll(arguments[2].c_str()));
  const auto chunks = static_cast<size_t>(std::atoll(arguments[3].c_str()));
  // It cuts the text's ids into chunks and puts the first token of a text in the first place of each.
  const std::vector<int32_t> ids = nfloat::Tokenizer::load(model).encode(text);
  if (context == 0 || ids.size() < context * chunks) {
    std::fprintf(stderr, "%s: has fewer than %zu tokens\n", arguments[1].c_str(), context * chunks);
    return 2;
  }
  std::vector<std::vector<int32_t>> windows;
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(chunk * context);
    windows.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(context));
    windows.back().front() = ids.front();
  }
  const auto checkpoint = std::make_shared<const nfloat::Checkpoint>(model);
  const nfloat::ModelConfig config = nfloat::parse_model_config(checkpoint->text_file("config.json"), model);
  nfloat::ImportanceMatrix own = nfloat::measure_importance(checkpoint, config, windows);
  own.texts = {arguments[1]};
  own.chunks = static_cast<uint32_t>(chunks);
  own.chunk_tokens = static_cast<uint32_t>(context);
  int failures = 0;
  for (size_t i = 4; i + 1 < arguments.size(); ++i) {
    const double most = largest_difference(own, nfloat::read_importance(arguments[i]));
    const bool good = most <= kMostApart;
    std::printf("importances of %zu matrices by llama.cpp (%s) and here: %.1e apart at most%s\n",
                own.tensors.size(), arguments[i].c_str(), most, good ? "" : "  DIFFERS");
    failures += good ? 0 : 1;
  }
  for (const char* name : {"/ours.gguf", "/ours.dat"}) nfloat::write_importance(folder + name, own, true);
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) {
    std::fprintf(stderr, "usage: imatrix MODEL TEXT CONTEXT CHUNKS THEIRS... FOLDER\n");
    return 2;
  }
  try {
    return judge({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "imatrix: %s\n", error.what());
    return 1;
  }
}
