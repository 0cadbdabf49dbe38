// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_ADDED_TOKENS_H_
#define NFLOAT_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/json_at.h"
#include "tokenizer/text_finder.h"
#include "tokenizer/vocabulary.h"

namespace nfloat {

class Normalizer;

// A token that is found in the text before anything else happens to it.
struct AddedToken {
  std::string text;
  int32_t id = kNoToken;
  bool special = false;
  bool single_word = false;  // only where no word character touches it
  bool strip_left = false;   // takes the white space before it along
  bool strip_right = false;  // and behind
  bool normalized = false;   // looked for in the normalized text
};

// A part of a text: an added token, or text between (id kNoToken).
struct TextPart {
  size_t begin;
  size_t end;
  int32_t id;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // The "added_tokens" of a tokenizer.json. A token that the model's vocabulary has keeps the id it has
  // there.
  AddedTokens(const JsonAt& json, const Vocabulary& vocabulary, const Normalizer* normalizer);

  // Splits a raw text at the tokens that are looked for before (false) or after (true) normalizing; special
  // ones only with `special`. Appends to `parts`.
  void split(std::string_view text, bool normalized, bool special, std::vector<TextPart>& parts) const;
  bool any(bool normalized) const noexcept { return !finders_[normalized].empty(); }

  const AddedToken* find(int32_t id) const noexcept;
  const AddedToken* find(std::string_view text) const noexcept;
  int32_t largest_id() const noexcept { return largest_id_; }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_text_;
  std::array<TextFinder, 2> finders_;
  int32_t largest_id_ = kNoToken;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_ADDED_TOKENS_H_
