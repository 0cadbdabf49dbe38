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
  virtual void encode(const Pieces& pieces, std::vector<int32_t>& ids) const = 0;
  // Whether encode takes Pieces::byte_level texts.
  virtual bool takes_bytes() const noexcept { return false; }

  const Vocabulary& vocabulary() const noexcept { return vocabulary_; }

 protected:
  Vocabulary vocabulary_;
};

// Throws kUnsupported naming a kind that is not known, kMalformedFile naming the place.
std::unique_ptr<const TokenModel> make_token_model(const JsonAt& json);

std::unique_ptr<const TokenModel> make_bpe(const JsonAt& json);

// The id of `json` (the text of a token); kNoToken when absent. Throws when the vocabulary lacks it.
int32_t token_named(const JsonAt& json, const Vocabulary& vocabulary);

// The 256 ids of "<0x00>" ... "<0xFF>", kNoToken where the vocabulary lacks one.
std::vector<int32_t> byte_tokens(const Vocabulary& vocabulary);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_TOKEN_MODEL_H_
