// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_TOKENIZER_STATE_H_
#define NFLOAT_TOKENIZER_TOKENIZER_STATE_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "nfloat/tokenizer.h"
#include "tokenizer/decoder.h"
#include "tokenizer/vocabulary.h"

namespace nfloat {

struct GgufPieces;

inline std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// What a kind of tokenizer file becomes. Immutable; texts are valid UTF-8 and ids in range when they come
// here.
struct Tokenizer::State {
  virtual ~State() = default;

  virtual std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const = 0;
  virtual std::string decode_bytes(Decoding decoding) const = 0;
  virtual std::string_view token_text(int32_t id) const = 0;  // empty for an id without a token
  virtual bool is_added(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual int32_t find(std::string_view text) const = 0;  // kNoToken when there is none

  // Whether BOS and EOS stand around every text, as add_bos_token and add_eos_token say.
  virtual void surround(bool with_bos, bool with_eos) {
    add_bos = with_bos;
    add_eos = with_eos;
  }
  // A token that a file beside the tokenizer adds; ignored where the tokenizer has one of this text.
  virtual void add_token(int32_t, const std::string&, bool /*special*/) {}

  int32_t vocab_size = 0;
  std::optional<int32_t> bos, eos;
  bool add_bos = false, add_eos = false;  // around every text, where the file itself does not say so
};

std::shared_ptr<Tokenizer::State> load_tokenizer_json(std::string_view text, const std::string& source);
// The tokenizer.json of a folder, with the tokens that the files beside it add.
std::shared_ptr<Tokenizer::State> load_folder_json(const std::string& path);
// Tokens that added_tokens.json and the added_tokens_decoder of tokenizer_config.json in a folder name, by
// id: entries as tokenizer.json has them.
std::map<int32_t, Json> tokens_beside(const std::string& folder);
// `document` is what a tokenizer.json holds.
std::shared_ptr<Tokenizer::State> build_json_tokenizer(const Json& document, const std::string& source);
// vocab.json and merges.txt of a folder, with the files beside them that say more.
std::shared_ptr<Tokenizer::State> load_vocab_and_merges(const std::string& folder);
std::shared_ptr<Tokenizer::State> load_sentencepiece(std::string_view model, const std::string& source);
// The vocabulary of a GGUF file that is SentencePiece's. Throws kMalformedFile for one that is too large.
std::shared_ptr<Tokenizer::State> make_scored_pieces(GgufPieces pieces, const std::string& source);

// Takes the BOS and EOS tokens that a tokenizer_config.json names.
void read_tokenizer_config(std::string_view text, const std::string& source, Tokenizer::State& state);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_TOKENIZER_STATE_H_
