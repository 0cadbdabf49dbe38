// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_FUZZ_TOKENIZER_EXERCISE_H_
#define NFLOAT_FUZZ_TOKENIZER_EXERCISE_H_

#include <cstdlib>
#include <string>
#include <vector>

#include "nfloat/tokenizer.h"
#include "tokenizer/utf8.h"

namespace nfloat {

// What must hold for any tokenizer that was loaded: ids in range, valid UTF-8 out, whole and streamed.
inline void exercise(const Tokenizer& tokenizer) {
  const std::string text =
      "Hello  world, \xE4\xBD\xA0\xE5\xA5\xBD e\xCC\x81\n\t12 <s>a aab\xFF\xF0\x9F\x98\x80  ab";
  for (const bool special : {true, false}) {
    const std::vector<int32_t> ids = tokenizer.encode(text, EncodeOptions{special, special});
    for (const int32_t id : ids)
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    if (!is_valid_utf8(tokenizer.decode(ids, special))) std::abort();
    TokenStream stream(tokenizer, special);
    for (const int32_t id : ids)
      if (!is_valid_utf8(stream.push(id))) std::abort();
    if (!is_valid_utf8(stream.flush())) std::abort();
  }
}

}  // namespace nfloat

#endif  // NFLOAT_FUZZ_TOKENIZER_EXERCISE_H_
