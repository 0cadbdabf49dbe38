// SPDX-License-Identifier: Apache-2.0
// quantizer libggml-base.so: llama.cpp's own quantizer, from a package, beside nfloat's round trips on the
// same normal weights. Exit status 1 where the squared error here is more than 2 % above.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "nfloat/formats.h"

namespace {

constexpr int64_t kCols = 4096, kRows = 256;

using Quantize = size_t (*)(int type, const float* from, void* to, int64_t start, int64_t rows, int64_t cols,
                            const float* importance);
using Dequantize = void (*)(const void* from, float* to, int64_t count);

double error_of(const std::vector<float>& weights, const std::vector<float>& back) {
  double error = 0, power = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const double w = static_cast<double>(weights[i]), e = static_cast<double>(back[i]) - w;
    error += e * e;
    power += w * w;
  }
  return error / power;
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "no library: %s\n", argc == 2 ? dlerror() : "usage: quantizer libggml-base.so");
    return 2;
  }
  const auto quantize = reinterpret_cast<Quantize>(dlsym(library, "ggml_quantize_chunk"));
  const struct {
    const char *name, *symbol;
    int type;     // ggml's number
    size_t bits;  // of 16 weights
  } kFormats[] = {{"q4_0", "dequantize_row_q4_0", 2, 72},      {"q4_k", "dequantize_row_q4_K", 12, 72},
                  {"q5_k", "dequantize_row_q5_K", 13, 88},     {"q6_k", "dequantize_row_q6_K", 14, 105},
                  {"iq4_xs", "dequantize_row_iq4_xs", 23, 68}, {"iq4_nl", "dequantize_row_iq4_nl", 20, 72},
                  {"q8_0", "dequantize_row_q8_0", 8, 136},     {"mxfp4", "dequantize_row_mxfp4", 39, 68}};
  std::mt19937_64 engine(11);
  std::normal_distribution<double> normal;
  std::vector<float> weights(static_cast<size_t>(kRows * kCols));
  for (float& weight : weights) weight = static_cast<float>(0.02 * normal(engine));
  int failures = 0;
  for (const auto& format : kFormats) {
    const auto dequantize = reinterpret_cast<Dequantize>(dlsym(library, format.symbol));
    if (quantize == nullptr || dequantize == nullptr) {
      std::printf("%-7s the library has no %s\n", format.name, format.symbol);
      ++failures;
      continue;
    }
    std::vector<uint8_t> stored(weights.size() / 16 * format.bits / 8);
    const size_t written = quantize(format.type, weights.data(), stored.data(), 0, kRows, kCols, nullptr);
    std::vector<float> theirs(weights.size()), ours = weights;
    dequantize(stored.data(), theirs.data(), static_cast<int64_t>(weights.size()));
    const nfloat::StoredWeights own = nfloat::make_format(format.name)->round_trip(ours, kRows, kCols);
    const double a = error_of(weights, theirs), b = error_of(weights, ours);
    const bool good = b / a - 1 <= 0.02 && written == stored.size() && own.bytes == written;
    std::printf("%-7s error %.6f with llama.cpp, %.6f here (%+.2f %%); %zu and %llu bytes%s\n", format.name,
                a, b, 100 * (b / a - 1), written, static_cast<unsigned long long>(own.bytes),
                good ? "" : "  DIFFERS");
    failures += good ? 0 : 1;
  }
  return failures == 0 ? 0 : 1;
}
