// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_PRE_TOKENIZER_H_
#define NFLOAT_TOKENIZER_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_at.h"
#include "tokenizer/regex.h"

namespace nfloat {

// A text on its way to the model: the parts of it that are tokenized on their own, in order. Parts that were
// split away and dropped (white space, say) are between the ranges.
struct Pieces {
  std::string text;
  std::vector<Match> ranges;  // none is empty
  bool at_text_start = true;  // the first range begins the whole input
  bool byte_level = false;    // the bytes of `text` stand for their characters of byte_alphabet()

  std::string_view at(const Match& range) const {
    return std::string_view(text).substr(range.begin, range.end - range.begin);
  }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void run(Pieces& pieces) const = 0;
};

// The "pre_tokenizer" of a tokenizer.json; null when there is none. With `keep_bytes`, a ByteLevel step at
// the very end leaves the text in bytes and sets Pieces::byte_level instead of rewriting it.
std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const JsonAt& json, bool keep_bytes);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_PRE_TOKENIZER_H_
