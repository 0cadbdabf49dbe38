// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_SENTENCEPIECE_FILE_H_
#define NFLOAT_TOKENIZER_SENTENCEPIECE_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nfloat {

// What a tokenizer.model holds, as far as it must be known or checked before the sentencepiece library may
// see the file: the library trusts the tables inside it.
struct SentencePieceFile {
  enum Type : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string_view text;  // borrows the file
    float score = 0;
    Type type = kNormal;
  };
  std::vector<Piece> pieces;  // by id
  int32_t bos = 1;
  int32_t eos = 2;
  int32_t unknown = 0;
  bool is_bpe = false;  // else unigram
  bool add_dummy_prefix = true;
  // No piece goes on over a space behind another character and nothing rewrites the text: every word can be
  // cut on its own, with the same result.
  bool words_are_independent = true;
};

// Walks the protocol buffer and checks: sizes, piece texts, types, finite scores, the kind of model, the
// tables of the normalizers. Throws kMalformedFile or kUnsupported naming `source` and the place.
SentencePieceFile read_sentencepiece_file(std::string_view bytes, const std::string& source);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_SENTENCEPIECE_FILE_H_
