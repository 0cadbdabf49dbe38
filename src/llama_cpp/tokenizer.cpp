// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <set>

#include "base/ascii.h"
#include "base/fail.h"
#include "llama_cpp/tokenizer_json.h"

namespace nfloat {
namespace {

// The few fields of sentencepiece's protocol buffer that are needed, written by hand.
class Proto {
 public:
  void number(uint32_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void real(uint32_t field, float value) {
    varint(field << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes_ += static_cast<char>(bits >> shift & 0xff);
  }
  void text(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

// tokenizer.model: pieces (1: text, score, type), trainer (2: BPE, byte fallback, special ids), normalizer
// (3). Its readers want one unknown piece, and every text once: other unknown pieces become control pieces,
// empty and repeated ones unused.
std::string sentencepiece_model(const GgufPieces& pieces) {
  Proto model;
  bool bytes = false;
  const auto count = static_cast<int64_t>(pieces.texts.size());
  int64_t unknown = pieces.unknown >= 0 && pieces.unknown < count ? pieces.unknown : 0;
  std::set<std::string_view> seen;
  for (int64_t id = 0; id < count; ++id) {
    const auto i = static_cast<size_t>(id);
    GgufTokenType type = pieces.types[i];
    if (type == GgufTokenType::kUnknown) type = GgufTokenType::kControl;
    if (id == unknown) type = GgufTokenType::kUnknown;
    bytes = bytes || type == GgufTokenType::kByte;
    const bool usable = !pieces.texts[i].empty() && seen.insert(pieces.texts[i]).second;
    Proto piece;
    piece.text(1, usable ? pieces.texts[i] : fmt::format("[UNUSED_{}]", id));
    piece.real(2, pieces.scores[i]);
    piece.number(3, static_cast<uint64_t>(usable || id == unknown ? type : GgufTokenType::kUnused));
    model.text(1, piece.bytes());
  }
  Proto trainer;
  trainer.number(3, 2);
  trainer.number(4, pieces.texts.size());
  trainer.number(35, bytes ? 1 : 0);
  trainer.number(40, static_cast<uint64_t>(unknown) & 0xffffffffu);
  trainer.number(41, static_cast<uint64_t>(pieces.bos) & 0xffffffffu);
  trainer.number(42, static_cast<uint64_t>(pieces.eos) & 0xffffffffu);
  model.text(2, trainer.bytes());
  Proto normalizer;
  normalizer.text(1, "identity");
  normalizer.number(3, pieces.add_space_prefix ? 1 : 0);
  normalizer.number(4, 0);
  normalizer.number(5, 1);
  model.text(3, normalizer.bytes());
  return model.bytes();
}

// Tokens that llama.cpp takes for the end of a turn by their name, whatever their type.
constexpr std::string_view kEndNames[] = {
    "<|eot_id|>",    "<|im_end|>",        "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>",
    "<|endoftext|>", "<|eom_id|>",        "<EOT>",   "_<EOT>",     "[EOT]",    "<|end_of_text|>",
    "[EOS]",         "<end_of_utterance>"};

bool is_end_name(std::string_view text) noexcept {
  return std::find(std::begin(kEndNames), std::end(kEndNames), text) != std::end(kEndNames);
}

// Which key of the metadata is which of tokenizer_config.json.
constexpr std::pair<const char*, const char*> kSpecialTokens[] = {
    {"tokenizer.ggml.bos_token_id", "bos_token"},
    {"tokenizer.ggml.eos_token_id", "eos_token"},
    {"tokenizer.ggml.unknown_token_id", "unk_token"},
    {"tokenizer.ggml.padding_token_id", "pad_token"}};

std::string chat_template(const Json& config) {
  const Json& value = config["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  for (const Json& named : value)
    if (text_of(named, "name") == "default") return text_of(named, "template");
  return {};
}

}  // namespace

std::vector<int64_t> gguf_end_tokens(const GgufFile& file) {
  std::vector<int64_t> ends;
  const auto add = [&](int64_t id) {
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    add(file.integer_or(key, -1));
  const GgufValue* tokens = gguf_list(file, "tokenizer.ggml.tokens", true, 0);
  if (tokens == nullptr) return ends;
  std::map<std::string_view, int64_t> named;
  for (uint64_t id = 0; id < tokens->count; ++id)
    if (is_end_name(tokens->text(id))) named.emplace(tokens->text(id), static_cast<int64_t>(id));
  // gpt-oss ends each of its channels with <|end|>, its answer with one of the other two.
  const bool channels =
      named.contains("<|return|>") && named.contains("<|call|>") && named.contains("<|end|>");
  for (const auto& [name, id] : named)
    if (!channels || name != "<|end|>") add(id);
  if (channels) std::erase(ends, named.at("<|end|>"));
  return ends;
}

GgufPieces gguf_pieces(const GgufFile& file) {
  const GgufVocabulary words = gguf_vocabulary(file);
  GgufPieces pieces;
  for (uint64_t id = 0; id < words.tokens->count; ++id) {
    const std::string_view text = words.tokens->text(id);
    int64_t type = words.type(id);
    if (type < int64_t{1} || type > int64_t{6}) type = 1;  // "undefined"
    if (is_end_name(text)) type = static_cast<int64_t>(GgufTokenType::kControl);
    pieces.texts.emplace_back(text);
    pieces.types.push_back(static_cast<GgufTokenType>(type));
    const double score = words.scores == nullptr ? 0.0 : words.scores->number(id);
    if (!std::isfinite(score))
      fail(ErrorCode::kMalformedFile, "{}: the score of token {} is {}", file.files()[0], id, score);
    pieces.scores.push_back(static_cast<float>(score));
  }
  pieces.unknown = file.integer_or("tokenizer.ggml.unknown_token_id", 0);
  pieces.bos = file.integer_or("tokenizer.ggml.bos_token_id", 1);
  pieces.eos = file.integer_or("tokenizer.ggml.eos_token_id", 2);
  pieces.add_space_prefix = flag_or(file, "tokenizer.ggml.add_space_prefix", true);
  const std::string name = in_lower_case(file.text_or("general.name", ""));
  pieces.trims_behind_tokens =
      name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
  return pieces;
}

std::map<std::string, std::string> huggingface_tokenizer(const GgufFile& file) {
  std::map<std::string, std::string> files;
  const std::string kind = file.text_or("tokenizer.ggml.model", "no_vocab");
  if (kind == "no_vocab") return files;
  if (kind != "gpt2" && kind != "llama")
    fail(ErrorCode::kUnsupported,
         "{}: the tokenizer \"{}\" is not known; gpt2 (BPE) and llama (SentencePiece) are", file.files()[0],
         kind);
  const GgufVocabulary words = gguf_vocabulary(file);
  bool bos = flag_or(file, "tokenizer.ggml.add_bos_token", true);
  if (kind == "gpt2")
    files["tokenizer.json"] = byte_level_json(file, words, &bos);
  else
    files["tokenizer.model"] = sentencepiece_model(gguf_pieces(file));
  Json config;
  config["tokenizer_class"] = kind == "gpt2" ? "PreTrainedTokenizerFast" : "LlamaTokenizer";
  config["add_bos_token"] = bos;
  config["add_eos_token"] = flag_or(file, "tokenizer.ggml.add_eos_token", false);
  for (const auto& [key, name] : kSpecialTokens) {
    const std::string text = token_at(file, words, key);
    if (!text.empty()) config[name] = text;
  }
  const std::string chat = file.text_or("tokenizer.chat_template", "");
  if (!chat.empty()) config["chat_template"] = chat;
  files["tokenizer_config.json"] = config.dump(2, Json::Invalid::kReplace) + "\n";
  return files;
}

GgufWords words_of_pieces(const GgufPieces& pieces, const Json& config, int64_t rows) {
  GgufWords words(rows);
  words.kind = "llama";
  words.space_prefix = pieces.add_space_prefix;
  for (size_t id = 0; id < pieces.texts.size(); ++id)
    words.put(static_cast<int64_t>(id), pieces.texts[id], pieces.types[id], pieces.scores[id]);
  for (const auto& [id, token] : config["added_tokens_decoder"].items()) {
    int64_t number = 0;
    for (const char c : id) number = c >= '0' && c <= '9' && number < 1 << 30 ? 10 * number + (c - '0') : -1;
    // Pieces of the model keep their scores and types.
    if (number >= static_cast<int64_t>(pieces.texts.size())) put_added(words, number, token);
  }
  return words;
}

std::string special_text(const Json& config, const char* key) {
  const Json& value = config[key];
  return value.is_object() ? text_of(value, "content") : text_of(config, key);
}

void append_special_tokens(const Json& config, const std::string& jinja, const GgufWords& words,
                           const SpecialTokens& special, GgufMetadata& metadata,
                           std::vector<std::string>& notes) {
  const auto put_id = [&](const char* key, int64_t id) {
    if (id >= 0) metadata.u32(key, static_cast<uint32_t>(id));
  };
  put_id("tokenizer.ggml.bos_token_id", special.bos);
  put_id("tokenizer.ggml.eos_token_id", special.eos);
  const std::vector<int32_t>& ends = special.ends;
  if (ends.size() > 1) put_id("tokenizer.ggml.eot_token_id", ends[1]);
  if (ends.size() > 2) put_id("tokenizer.ggml.eom_token_id", ends[2]);
  if (ends.size() > 3)
    notes.push_back(fmt::format("{} of {} ids that end a text", ends.size() - 3, ends.size()));
  put_id("tokenizer.ggml.unknown_token_id", special.unknown);
  put_id("tokenizer.ggml.padding_token_id", special.padding);
  metadata.flag("tokenizer.ggml.add_bos_token", special.add_bos);
  metadata.flag("tokenizer.ggml.add_eos_token", special.add_eos);
  if (words.kind == "llama") metadata.flag("tokenizer.ggml.add_space_prefix", words.space_prefix);
  if (const std::string chat = jinja.empty() ? chat_template(config) : jinja; !chat.empty())
    metadata.text("tokenizer.chat_template", chat);
}

}  // namespace nfloat
