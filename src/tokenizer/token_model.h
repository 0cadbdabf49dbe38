// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_TOKEN_MODEL_H_
#define NFLOAT_TOKENIZER_TOKEN_MODEL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "tokenizer/json_at.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace nfloat {

// The "model" of a tokenizer.json: turns each piece of a text into tokens of its vocabulary.
class TokenModel {
 public:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  TokenModel(const TokenModel&) = delete;
  TokenModel& operator=(const TokenModel&) = delete;
  virtual ~TokenModel() = default;

  // Appends the ids of every piece in order.
  void encode(const Pieces& pieces, std::vector<int32_t>& ids) const;
  // Whether encode takes Pieces::byte_level texts.
  virtual bool takes_bytes() const noexcept { return false; }

  const Vocabulary& vocabulary() const noexcept { return vocabulary_; }

 protected:
  // Where the first part of a text piece ends that gives the same ids on its own.
  virtual size_t word_end(std::string_view piece) const { return piece.size(); }
  // The ids of one piece into `tokens`, which is empty. They depend on nothing but its text (bytes when
  // `is_bytes`).
  virtual void encode_word(std::string_view word, bool is_bytes, std::vector<int32_t>& tokens) const = 0;

  Vocabulary vocabulary_;
};

// The longest token of a model that walks a trie of tokens at every place of a text: it bounds the time.
inline constexpr size_t kMaxTrieTokenBytes = 1024;
inline std::string too_long(size_t bytes) {
  return fmt::format("a token of {} bytes, at most {}", bytes, kMaxTrieTokenBytes);
}

// Throws kUnsupported naming a kind that is not known, kMalformedFile naming the place.
std::unique_ptr<const TokenModel> make_token_model(const JsonAt& json);

std::unique_ptr<const TokenModel> make_bpe(const JsonAt& json);
std::unique_ptr<const TokenModel> make_unigram(const JsonAt& json);
std::unique_ptr<const TokenModel> make_word_piece(const JsonAt& json);
std::unique_ptr<const TokenModel> make_word_level(const JsonAt& json);

// The id of `json` (the text of a token); kNoToken when absent. Throws when the vocabulary lacks it.
int32_t token_named(const JsonAt& json, const Vocabulary& vocabulary);

// The 256 ids of "<0x00>" ... "<0xFF>", kNoToken where the vocabulary lacks one.
std::vector<int32_t> byte_tokens(const Vocabulary& vocabulary);

// Appends the byte tokens (of `bytes`, as byte_tokens gives them) of `text`; false, with nothing appended,
// when one is missing or `bytes` is empty.
bool fall_back_to_bytes(std::string_view text, const std::vector<int32_t>& bytes,
                        std::vector<int32_t>& tokens);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_TOKEN_MODEL_H_
