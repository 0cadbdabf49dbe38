// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_POST_PROCESSOR_H_
#define NFLOAT_TOKENIZER_POST_PROCESSOR_H_

#include <cstdint>
#include <vector>

#include "tokenizer/json_at.h"

namespace nfloat {

// The special tokens that a tokenizer.json puts around a single text.
struct Surroundings {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

// The "post_processor" of a tokenizer.json. Throws kUnsupported for kinds, and for templates that use the
// text not exactly once.
Surroundings read_post_processor(const JsonAt& json);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_POST_PROCESSOR_H_
