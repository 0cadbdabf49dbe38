// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_NORMALIZER_H_
#define NFLOAT_TOKENIZER_NORMALIZER_H_

#include <memory>
#include <string>

#include "tokenizer/json_at.h"

namespace nfloat {

// A step that rewrites a text (valid UTF-8 in and out) before it is split.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(std::string& text) const = 0;
};

// The "normalizer" of a tokenizer.json; null when there is none.
std::unique_ptr<const Normalizer> make_normalizer(const JsonAt& json);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_NORMALIZER_H_
