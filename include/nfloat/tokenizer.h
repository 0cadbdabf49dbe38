// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_H_
#define NFLOAT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

struct EncodeOptions {
  // Add what the model expects around a text: the post-processor of tokenizer.json, BOS for tokenizer.model.
  bool add_special_tokens = true;
  // The text of a special token inside the input ("<|im_start|>") becomes that token. False for text that is
  // not trusted: it is then encoded as plain characters.
  bool parse_special_tokens = true;
};

// Text to token ids and back, as the model's files define it: tokenizer.json (the format of Hugging Face's
// tokenizers), tokenizer.model (SentencePiece), or vocab.json with merges.txt (GPT-2). Immutable once loaded:
// any number of threads may use one object. Copies share their tables.
class NFLOAT_API Tokenizer {
 public:
  // `path` is a model folder, which is looked through for tokenizer.json, then tokenizer.model, then
  // vocab.json with merges.txt, or one such file. A tokenizer_config.json beside it names the BOS and EOS
  // tokens. Throws kNotFound, kMalformedFile (naming the file and the place in it) or kUnsupported (naming
  // the kind of normalizer, pre-tokenizer, model, post-processor or decoder that is not supported).
  static Tokenizer load(const std::string& path);
  // The same from memory; `source` names the data in messages.
  static Tokenizer from_json(std::string_view tokenizer_json, const std::string& source = "tokenizer.json");
  static Tokenizer from_sentencepiece(std::string_view model, const std::string& source = "tokenizer.model");

  // Bytes that are not valid UTF-8 count as U+FFFD each (maximal invalid parts, as Unicode recommends).
  // Time grows as n log n at worst. Throws kUnsupported when an expression of the file exceeds its bound of
  // matching steps on this text.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const;
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true) const {
    return encode(text, EncodeOptions{add_special_tokens, true});
  }

  // Valid UTF-8 always: bytes that do not form characters become U+FFFD. Throws kInvalidArgument naming the
  // first id outside the vocabulary; ids inside it that have no token decode to nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  // One more than the largest id. A model's own vocabulary (config.json) may be padded to more.
  int32_t vocab_size() const noexcept;
  // The token as the file spells it ("Ġthe", "▁the", "<0x0A>"); empty for an id without a token.
  std::string_view token_text(int32_t id) const;
  // The bytes that the token adds to a text that has begun, possibly a part of a character.
  std::string token_bytes(int32_t id) const;
  // The id of a token as the file spells it.
  std::optional<int32_t> token_id(std::string_view text) const;
  bool is_special(int32_t id) const noexcept;

  std::optional<int32_t> bos_id() const noexcept;
  std::optional<int32_t> eos_id() const noexcept;

  struct State;

 private:
  explicit Tokenizer(std::shared_ptr<const State> state);
  friend class TokenStream;
  std::shared_ptr<const State> state_;
};

// Decodes tokens one by one, for printing while they are generated. Everything returned is complete UTF-8: a
// character whose bytes are spread over several tokens comes with the last of them.
class NFLOAT_API TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens = true);

  // Takes tokens whose text is known, such as a prompt's: tokens pushed next continue their text, and keep
  // a space that only the start of a text loses. Throws as Tokenizer::decode.
  void skip(std::span<const int32_t> ids);
  // The text that became complete with this token, often empty. Throws as Tokenizer::decode.
  std::string push(int32_t id);
  // The rest at the end: U+FFFD for an incomplete character. The stream then starts afresh.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  bool skip_special_tokens_;
  bool begun_ = false;
  std::string pending_;  // the first bytes of a character
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_H_
