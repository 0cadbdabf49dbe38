// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_VOCABULARY_H_
#define NFLOAT_LLAMA_CPP_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/writer.h"
#include "nfloat/gguf.h"

namespace nfloat {

inline constexpr std::string_view kVisibleSpace =
    "\xe2\x96\x81";  // U+2581, a space in SentencePiece's pieces

// With the format's numbers.
enum class GgufTokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// The lists of a file, of equal length. Borrows from it.
struct GgufVocabulary {
  const GgufValue* tokens = nullptr;
  const GgufValue* types = nullptr;   // null: all normal
  const GgufValue* scores = nullptr;  // null: zeros

  int64_t type(uint64_t id) const { return types == nullptr ? 1 : types->integer(id); }
};

// A list of texts or of numbers, `count` of them (0: any number); null when the file has none. Throws
// kMalformedFile naming the key.
const GgufValue* gguf_list(const GgufFile& file, std::string_view key, bool texts, uint64_t count);

// Throws kMalformedFile when there is none or the lists differ in length.
GgufVocabulary gguf_vocabulary(const GgufFile& file);

// The text of the token that `key` names; empty when there is none.
std::string token_at(const GgufFile& file, const GgufVocabulary& words, const char* key);

bool flag_or(const GgufFile& file, const char* key, bool otherwise);

// The same lists on their way into a file: one entry a row of the embedding.
struct GgufWords {
  static constexpr float kAddedScore = -1000, kUnusedScore = -10000;

  explicit GgufWords(int64_t count);

  // Ids beyond the rows are passed over.
  void put(int64_t id, std::string text, GgufTokenType type, float score);
  void append_to(GgufMetadata& metadata) const;

  std::vector<std::string> texts;
  std::vector<GgufTokenType> types;
  std::vector<float> scores;  // of SentencePiece
  std::vector<std::string> merges;
  std::string kind = "gpt2", pre = "default";
  bool space_prefix = true;
};

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_VOCABULARY_H_
