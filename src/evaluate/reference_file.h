// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_REFERENCE_FILE_H_
#define NFLOAT_EVALUATE_REFERENCE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "nfloat/evaluate.h"

namespace nfloat {

struct ReferenceDistributions::State {
  MappedFile file;
  std::string identity;
  uint64_t windows_hash = 0;
  int64_t tokens = 0, vocabulary = 0;
  uint64_t records = 0;  // offset of the first

  struct Token {
    double loss;
    int32_t top;
  };
  // Log-probabilities of token `index` into `output` (vocabulary floats), up to a constant and rounding.
  Token read(int64_t index, float* output) const noexcept;
};

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_REFERENCE_FILE_H_
