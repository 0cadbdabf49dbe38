// SPDX-License-Identifier: Apache-2.0
// The two models that look words up: WordPiece (BERT: the longest token first) and WordLevel (whole words).
#include "tokenizer/text_finder.h"
#include "tokenizer/token_model.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

class WordPiece final : public TokenModel {
 public:
  WordPiece(Vocabulary vocabulary, int32_t unknown, const std::string& prefix, size_t max_chars)
      : TokenModel(std::move(vocabulary)), unknown_(unknown), max_chars_(max_chars) {
    for (int32_t id = 0; id < vocabulary_.size(); ++id) {
      const std::string_view text = vocabulary_.text(id);
      if (text.empty() || vocabulary_.find(text) != id) continue;
      beginnings_.add(text, id);
      if (text.size() > prefix.size() && text.starts_with(prefix))
        continuations_.add(text.substr(prefix.size()), id);
    }
  }

 private:
  void encode_word(std::string_view word, bool, std::vector<int32_t>& tokens) const override {
    if (has_at_most(word, max_chars_)) {
      size_t at = 0;
      while (at < word.size()) {
        size_t end = at;
        const int32_t id = (at == 0 ? beginnings_ : continuations_).match(word, at, &end);
        if (id == kNoToken) break;
        tokens.push_back(id);
        at = end;
      }
      if (at == word.size()) return;
    }
    tokens.assign(1, unknown_);
  }

  static bool has_at_most(std::string_view word, size_t chars) noexcept {
    if (word.size() <= chars) return true;
    size_t count = 0;
    for (const char byte : word) count += (static_cast<uint8_t>(byte) & 0xC0) != 0x80;
    return count <= chars;
  }

  int32_t unknown_;
  size_t max_chars_;
  TextFinder beginnings_, continuations_;
};

class WordLevel final : public TokenModel {
 public:
  WordLevel(Vocabulary vocabulary, int32_t unknown) : TokenModel(std::move(vocabulary)), unknown_(unknown) {}

 private:
  void encode_word(std::string_view word, bool, std::vector<int32_t>& tokens) const override {
    const int32_t id = vocabulary_.find(word);
    tokens.push_back(id != kNoToken ? id : unknown_);
  }

  int32_t unknown_;
};

int32_t unknown_of(const JsonAt& json, const char* fallback, const Vocabulary& vocabulary) {
  const int32_t id = vocabulary.find(json["unk_token"].text_or(fallback));
  if (id == kNoToken) json["unk_token"].wrong("a token of the vocabulary");
  return id;
}

}  // namespace

std::unique_ptr<const TokenModel> make_word_piece(const JsonAt& json) {
  Vocabulary vocabulary = Vocabulary::from_object(json["vocab"]);
  for (int32_t id = 0; id < vocabulary.size(); ++id)
    if (vocabulary.text(id).size() > kMaxTrieTokenBytes)
      json["vocab"].malformed(fmt::format("token {}: {}", id, too_long(vocabulary.text(id).size())));
  const int32_t unknown = unknown_of(json, "[UNK]", vocabulary);
  const auto max_chars = static_cast<size_t>(json["max_input_chars_per_word"].integer_or(0, INT32_MAX, 100));
  return std::make_unique<WordPiece>(std::move(vocabulary), unknown,
                                     json["continuing_subword_prefix"].text_or("##"), max_chars);
}

std::unique_ptr<const TokenModel> make_word_level(const JsonAt& json) {
  Vocabulary vocabulary = Vocabulary::from_object(json["vocab"]);
  const int32_t unknown = unknown_of(json, "<unk>", vocabulary);
  return std::make_unique<WordLevel>(std::move(vocabulary), unknown);
}

}  // namespace nfloat
