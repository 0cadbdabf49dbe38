// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_PRE_TOKENIZERS_H_
#define NFLOAT_LLAMA_CPP_PRE_TOKENIZERS_H_

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nfloat {

// Whether object[key] is true; false for what is missing or no boolean.
bool flag_at(const Json& object, const char* key);

// How llama.cpp calls the ways to cut a text before byte-level BPE, and what tokenizer.json says instead.
struct GgufPreTokenizer {
  std::string_view name;  // "llama-bpe"; the first of those with the same steps is written
  // Of Split steps in front of ByteLevel, in order, filled up with empty ones; none: ByteLevel's own.
  std::array<std::string_view, 6> expressions;
  bool single_digits;  // a Digits step in front
  bool whole_words;    // a word that is a token is not built from merges (ignore_merges)
  bool bos;            // a text begins with BOS unless the file says otherwise
};

const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name) noexcept;
// By what tokenizer.json holds. Null when none of them is the same.
const GgufPreTokenizer* match_gguf_pre_tokenizer(const std::vector<std::string>& expressions,
                                                 bool single_digits, bool whole_words) noexcept;

// The "pre_tokenizer" of tokenizer.json, and its "normalizer": null where there is none.
Json pre_tokenizer_json(const GgufPreTokenizer& kind);
Json normalizer_json(const GgufPreTokenizer& kind);

// The reverse: what stands before ByteLevel. False when it is anything else than the table could have.
bool read_pre_tokenizer(const Json& pre_tokenizer, std::vector<std::string>& expressions,
                        bool& single_digits);

// The last step: "pre_tokenizer" and "decoder" have it.
Json byte_level_step(bool own_expression);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_PRE_TOKENIZERS_H_
