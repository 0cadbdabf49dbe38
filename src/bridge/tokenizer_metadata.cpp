// SPDX-License-Identifier: Apache-2.0
#include "bridge/tokenizer_metadata.h"

#include "base/fail.h"
#include "base/json.h"
#include "llama_cpp/tokenizer.h"
#include "llama_cpp/tokenizer_json.h"
#include "nfloat/tokenizer.h"
#include "tokenizer/sentencepiece_file.h"

namespace nfloat {
namespace {

Json parse(const Checkpoint& checkpoint, const char* name) {
  const std::string text = checkpoint.text_file(name);
  if (text.empty()) return nullptr;
  return parse_json_object(text, fmt::format("{}/{}", checkpoint.path(), name), {.depth = 64});
}

GgufPieces pieces_of(const SentencePieceFile& file) {
  GgufPieces pieces;
  pieces.add_space_prefix = file.add_dummy_prefix;
  for (const auto& piece : file.pieces) {
    pieces.texts.emplace_back(piece.text);
    pieces.types.push_back(static_cast<GgufTokenType>(piece.type));
    pieces.scores.push_back(piece.score);
  }
  return pieces;
}

// Null, with the reason in `why`, when llama.cpp has nothing that gives the same tokens.
std::optional<GgufWords> words_of(const Checkpoint& checkpoint, const Json& config, int64_t rows,
                                  std::string& why) {
  if (const Json json = parse(checkpoint, "tokenizer.json"); !json.is_null()) {
    GgufWords words(rows);
    if (!read_tokenizer_json(json, words, why)) return std::nullopt;
    return words;
  }
  const std::string model = checkpoint.text_file("tokenizer.model");
  if (model.empty()) {
    why = "no tokenizer";
    return std::nullopt;
  }
  const SentencePieceFile file = read_sentencepiece_file(model, checkpoint.path() + "/tokenizer.model");
  if (!file.is_bpe) {
    why = "a SentencePiece unigram model";
    return std::nullopt;
  }
  return words_of_pieces(pieces_of(file), config, rows);
}

}  // namespace

void append_tokenizer(const Checkpoint& checkpoint, int64_t vocabulary, const std::vector<int32_t>& ends,
                      GgufMetadata& metadata, std::vector<std::string>& notes) {
  const Json config = parse(checkpoint, "tokenizer_config.json");
  std::string why;
  const std::optional<GgufWords> words = words_of(checkpoint, config, vocabulary, why);
  if (!words) {
    notes.push_back("the file has no tokenizer: the checkpoint has " + why);
    metadata.text("tokenizer.ggml.model", "no_vocab");
    return;
  }
  words->append_to(metadata);

  // Which special tokens stand around a text: what Hugging Face's tokenizer does is what counts.
  const Tokenizer tokenizer = Tokenizer::load(checkpoint.path());
  const auto id_of = [&](const char* key) -> int64_t {
    const std::string text = special_text(config, key);
    const auto id = text.empty() ? std::nullopt : tokenizer.token_id(text);
    return id && *id < vocabulary ? *id : -1;
  };
  const std::vector<int32_t> around = tokenizer.encode("a");
  SpecialTokens special{.bos = id_of("bos_token"),
                        .eos = ends.empty() ? id_of("eos_token") : ends.front(),
                        .unknown = id_of("unk_token"),
                        .padding = id_of("pad_token"),
                        .ends = ends};
  if (special.bos < 0 && tokenizer.bos_id()) special.bos = *tokenizer.bos_id();
  special.add_bos = special.bos >= 0 && !around.empty() && around.front() == special.bos;
  special.add_eos = special.eos >= 0 && around.size() > 1 && around.back() == special.eos;
  append_special_tokens(config, checkpoint.text_file("chat_template.jinja"), *words, special, metadata,
                        notes);
  if (tokenizer.vocab_size() > vocabulary)
    notes.push_back(fmt::format("{} tokens beyond the {} rows of the embedding",
                                tokenizer.vocab_size() - vocabulary, vocabulary));
}

}  // namespace nfloat
