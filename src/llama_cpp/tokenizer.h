// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_TOKENIZER_H_
#define NFLOAT_LLAMA_CPP_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/gguf.h"

namespace nfloat {

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

// With the format's numbers.
enum class GgufTokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

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

// The ids that end a text, a turn or a message: those that the metadata names, the end of the text first,
// then the tokens that llama.cpp knows by name.
std::vector<int64_t> gguf_end_tokens(const GgufFile& file);

// The files of a tokenizer that a Hugging Face folder would have, by name: tokenizer.json or tokenizer.model,
// and tokenizer_config.json; none where the file has no tokenizer. Throws kUnsupported (kind of tokenizer,
// pre-tokenizer, each by name), kMalformedFile.
std::map<std::string, std::string> huggingface_tokenizer(const GgufFile& file);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_TOKENIZER_H_
