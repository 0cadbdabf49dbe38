// SPDX-License-Identifier: Apache-2.0
#include "nfloat/tokenizer.h"

#include <filesystem>

#include "base/fail.h"
#include "base/interruption.h"
#include "base/mapped_file.h"
#include "llama_cpp/tokenizer.h"
#include "tokenizer/tokenizer_state.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

// Hugging Face's file first, then SentencePiece's, then the two files that came before.
fs::path tokenizer_file(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json"}) {
    std::error_code error;
    if (fs::exists(path / name, error)) return path / name;
    if (error) fail(ErrorCode::kIo, "{}: {}", (path / name).string(), error.message());
  }
  fail(ErrorCode::kNotFound,
       "{}: there is neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt",
       path.string());
}

std::shared_ptr<Tokenizer::State> load_state(const fs::path& path) {
  if (path.filename() == "vocab.json" || path.filename() == "merges.txt")
    return load_vocab_and_merges(path.parent_path().string());
  if (path.extension() == ".json") return load_folder_json(path.string());
  const std::string source = path.string();
  const MappedFile file(source);
  const std::shared_ptr<Tokenizer::State> state = load_sentencepiece(text_of(file), source);
  for (const auto& [id, token] : tokens_beside(path.parent_path().string())) {
    const JsonAt entry(token, source);
    state->add_token(id, entry["content"].text(), entry["special"].flag_or(false));
  }
  return state;
}

DecodedPiece piece_of(const Tokenizer::State& state, int32_t id) {
  return {std::string(state.token_text(id)), state.is_added(id)};
}

void check_id(const Tokenizer::State& state, int32_t id) {
  if (id < 0 || id >= state.vocab_size)
    fail(ErrorCode::kInvalidArgument, "token id {} is outside the vocabulary of {}", id, state.vocab_size);
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, const std::string& source) {
  return Tokenizer(load_tokenizer_json(tokenizer_json, source));
}

Tokenizer Tokenizer::from_sentencepiece(std::string_view model, const std::string& source) {
  return Tokenizer(load_sentencepiece(model, source));
}

static std::shared_ptr<const Tokenizer::State> load_from_gguf(const std::string& path) {
  const GgufFile file(path);
  std::map<std::string, std::string> files = huggingface_tokenizer(file);
  if (files.empty()) fail(ErrorCode::kNotFound, "{}: there is no tokenizer in this file", path);
  const std::shared_ptr<Tokenizer::State> state = files.contains("tokenizer.json")
                                                      ? load_tokenizer_json(files["tokenizer.json"], path)
                                                      : make_scored_pieces(gguf_pieces(file), path);
  read_tokenizer_config(files["tokenizer_config.json"], path, *state);
  return state;
}

Tokenizer Tokenizer::load(const std::string& path) {
  if (is_gguf_path(path)) return Tokenizer(load_from_gguf(path));
  const fs::path file_path = tokenizer_file(path);
  const std::shared_ptr<State> state = load_state(file_path);
  // The second says it again where it says anything.
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const fs::path config_path = file_path.parent_path() / name;
    std::error_code ignored;
    if (!fs::exists(config_path, ignored)) continue;
    const MappedFile config(config_path.string());
    read_tokenizer_config(text_of(config), config_path.string(), *state);
  }
  return Tokenizer(state);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (is_valid_utf8(text)) return state_->encode(text, options);
  return state_->encode(repair_utf8(text), options);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  Decoding decoding;
  decoding.pieces.reserve(ids.size());
  Looks looks;
  for (const int32_t id : ids) {
    looks.step();
    check_id(*state_, id);
    if (!skip_special_tokens || !state_->is_special(id)) decoding.pieces.push_back(piece_of(*state_, id));
  }
  const std::string bytes = state_->decode_bytes(std::move(decoding));
  return is_valid_utf8(bytes) ? bytes : repair_utf8(bytes);
}

int32_t Tokenizer::vocab_size() const noexcept {
  return state_->vocab_size;
}

std::string_view Tokenizer::token_text(int32_t id) const {
  check_id(*state_, id);
  return state_->token_text(id);
}

std::string Tokenizer::token_bytes(int32_t id) const {
  check_id(*state_, id);
  return state_->decode_bytes({{piece_of(*state_, id)}, false, false, false, false});
}

std::optional<int32_t> Tokenizer::token_id(std::string_view text) const {
  const int32_t id = state_->find(text);
  return id == kNoToken ? std::nullopt : std::optional(id);
}

bool Tokenizer::is_special(int32_t id) const noexcept {
  return state_->is_special(id);
}
std::optional<int32_t> Tokenizer::bos_id() const noexcept {
  return state_->bos;
}
std::optional<int32_t> Tokenizer::eos_id() const noexcept {
  return state_->eos;
}

TokenStream::TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

void TokenStream::skip(std::span<const int32_t> ids) {
  for (const int32_t id : ids) push(id);
  pending_.clear();
}

std::string TokenStream::push(int32_t id) {
  const Tokenizer::State& state = *tokenizer_.state_;
  check_id(state, id);
  if (skip_special_tokens_ && state.is_special(id)) return {};
  DecodedPiece piece = piece_of(state, id);
  if (piece.text.empty()) return {};
  pending_ += state.decode_bytes({{std::move(piece)}, !begun_, false, false, false});
  begun_ = true;
  size_t complete = 0;
  while (complete < pending_.size()) {
    const Utf8Char next = next_char(pending_, complete);
    if (next.kind == Utf8Char::kIncomplete) break;
    complete += next.bytes;
  }
  std::string text = repair_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string TokenStream::flush() {
  std::string text = repair_utf8(pending_);
  pending_.clear();
  begun_ = false;
  return text;
}

}  // namespace nfloat
