// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/vocabulary.h"

#include "base/fail.h"

namespace nfloat {

const GgufValue* gguf_list(const GgufFile& file, std::string_view key, bool texts, uint64_t count) {
  const GgufValue* value = file.find_value(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array || value->is_text() != texts || (count != 0 && value->count != count))
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, expected a list of {}{}", file.files()[0],
         key, value->to_string(), count != 0 ? fmt::format("{} ", count) : "", texts ? "texts" : "numbers");
  return value;
}

GgufVocabulary gguf_vocabulary(const GgufFile& file) {
  GgufVocabulary result;
  result.tokens = gguf_list(file, "tokenizer.ggml.tokens", true, 0);
  if (result.tokens == nullptr || result.tokens->count == 0)
    fail(ErrorCode::kMalformedFile, "{}: no \"tokenizer.ggml.tokens\"", file.files()[0]);
  result.types = gguf_list(file, "tokenizer.ggml.token_type", false, result.tokens->count);
  result.scores = gguf_list(file, "tokenizer.ggml.scores", false, result.tokens->count);
  return result;
}

// The text of the token that `key` names; empty when there is none.
std::string token_at(const GgufFile& file, const GgufVocabulary& words, const char* key) {
  const int64_t id = file.integer_or(key, -1);
  if (id < 0) return {};
  if (static_cast<uint64_t>(id) >= words.tokens->count)
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, there are {} tokens", file.files()[0], key,
         id, words.tokens->count);
  return std::string(words.tokens->text(static_cast<uint64_t>(id)));
}

bool flag_or(const GgufFile& file, const char* key, bool otherwise) {
  return file.integer_or(key, otherwise ? 1 : 0) != 0;
}

GgufWords::GgufWords(int64_t rows) {
  const auto count = static_cast<size_t>(rows);
  texts.resize(count);
  types.assign(count, GgufTokenType::kUnused);
  scores.assign(count, kUnusedScore);
  for (size_t id = 0; id < count; ++id) texts[id] = fmt::format("[PAD{}]", id);
}

void GgufWords::put(int64_t id, std::string text, GgufTokenType type, float score) {
  if (id < 0 || id >= static_cast<int64_t>(texts.size())) return;
  const auto i = static_cast<size_t>(id);
  texts[i] = std::move(text);
  types[i] = type;
  scores[i] = score;
}

void GgufWords::append_to(GgufMetadata& metadata) const {
  std::vector<int32_t> numbers;
  for (const GgufTokenType type : types) numbers.push_back(static_cast<int32_t>(type));
  metadata.text("tokenizer.ggml.model", kind);
  metadata.text("tokenizer.ggml.pre", pre);
  metadata.texts("tokenizer.ggml.tokens", texts);
  if (kind == "llama") metadata.numbers("tokenizer.ggml.scores", scores);
  metadata.integers("tokenizer.ggml.token_type", numbers);
  if (kind == "gpt2") metadata.texts("tokenizer.ggml.merges", merges);
}

}  // namespace nfloat
