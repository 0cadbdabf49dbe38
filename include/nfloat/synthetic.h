// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SYNTHETIC_H_
#define NFLOAT_SYNTHETIC_H_

#include <cstdint>
#include <string_view>

#include "nfloat/api.h"
#include "nfloat/model.h"

namespace nfloat {

struct SyntheticOptions {
  // `quantize`: empty means NF4 with 8-bit scales; the head has the same format; `head` is ignored.
  ModelOptions model;
  uint64_t seed = 1;
};

// The shapes that benchmarks use: "1b" (16 layers, 2048 wide, 8192 inside, 32 heads of which 8 keys and
// values, 32000 tokens, tied), "8b" (that of Llama 3 8B) and "moe" (as 1b, with 8 experts of 0.3 billion
// weights, 3072 inside, 2 of them a token). Throws kInvalidArgument.
NFLOAT_API ModelConfig synthetic_config(std::string_view shape);

// A model of random 4-bit weights, made in memory. Its text has no meaning; its speed and memory are those of
// a trained model of the same shape. Throws kOutOfMemory before it begins.
NFLOAT_API Model synthetic_model(const ModelConfig& config, const SyntheticOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_SYNTHETIC_H_
