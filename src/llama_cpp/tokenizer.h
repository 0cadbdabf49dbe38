// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_TOKENIZER_H_
#define NFLOAT_LLAMA_CPP_TOKENIZER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "gguf/writer.h"
#include "llama_cpp/vocabulary.h"
#include "nfloat/gguf.h"

namespace nfloat {

// A vocabulary of the kind "llama" (SentencePiece's): the three lists are of equal length.
struct GgufPieces {
  std::vector<std::string> texts;  // empty ones and repeated ones occur
  std::vector<float> scores;       // zero where the file has none
  std::vector<GgufTokenType> types;
  int64_t unknown = 0, bos = 1, eos = 2;
  bool add_space_prefix = true;
  bool trims_behind_tokens = false;  // Phi-3: white space behind a token of its own goes with it
};

// Of a file whose "tokenizer.ggml.model" is "llama". Throws kMalformedFile naming the key.
GgufPieces gguf_pieces(const GgufFile& file);

// The reverse: pieces of a tokenizer.model, and what tokenizer_config.json (`config`) adds to them.
GgufWords words_of_pieces(const GgufPieces& pieces, const Json& config, int64_t rows);

// The ids that end a text, a turn or a message: those that the metadata names, the end of the text first,
// then the tokens that llama.cpp knows by name.
std::vector<int64_t> gguf_end_tokens(const GgufFile& file);

// The files of a tokenizer that a Hugging Face folder would have, by name: tokenizer.json or tokenizer.model,
// and tokenizer_config.json; none where the file has no tokenizer. Throws kUnsupported (kind of tokenizer,
// pre-tokenizer, each by name), kMalformedFile.
std::map<std::string, std::string> huggingface_tokenizer(const GgufFile& file);

// What a tokenizer does around a text: ids, -1 where there is none.
struct SpecialTokens {
  int64_t bos = -1, eos = -1, unknown = -1, padding = -1;
  std::vector<int32_t> ends;  // a text, a turn, a message
  bool add_bos = false, add_eos = false;
};

// The text of "bos_token" and its like in tokenizer_config.json: a text, or an object that holds one.
std::string special_text(const Json& config, const char* key);

// The reverse of huggingface_tokenizer, beside the words themselves: special tokens, and the chat template
// (`jinja`: chat_template.jinja, else tokenizer_config.json has it). What has no place is said in `notes`.
void append_special_tokens(const Json& config, const std::string& jinja, const GgufWords& words,
                           const SpecialTokens& special, GgufMetadata& metadata,
                           std::vector<std::string>& notes);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_TOKENIZER_H_
