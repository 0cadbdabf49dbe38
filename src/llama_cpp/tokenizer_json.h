// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_TOKENIZER_JSON_H_
#define NFLOAT_LLAMA_CPP_TOKENIZER_JSON_H_

#include <string>

#include "base/json.h"
#include "llama_cpp/vocabulary.h"

namespace nfloat {

// tokenizer.json of a byte-level vocabulary; `bos` becomes whether a text begins with BOS. Throws
// kUnsupported naming the pre-tokenizer, kMalformedFile.
std::string byte_level_json(const GgufFile& file, const GgufVocabulary& words, bool* bos);

// The reverse, into `words`, made for as many tokens as the model has. False when llama.cpp has nothing that
// gives the same tokens, with the reason in `why`.
bool read_tokenizer_json(const Json& json, GgufWords& words, std::string& why);

// A token beside the vocabulary, an entry of "added_tokens" or of "added_tokens_decoder".
void put_added(GgufWords& words, int64_t id, const Json& token);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_TOKENIZER_JSON_H_
