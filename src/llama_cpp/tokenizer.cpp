// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <set>

#include "base/fail.h"
#include "base/json.h"
#include "llama_cpp/tokenizer.h"

namespace nfloat {
namespace {

// Contractions in either case; digits by ones or by threes.
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Marks belong to their letters.
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words end where a capital follows a small letter.
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailing =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kSeedCoder =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBloom = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr std::string_view kThreeDigits = R"(\p{N}{1,3})", kDigit = R"(\p{N})";
constexpr std::string_view kDeepSeekCjk = "[一-龥぀-ゟ゠-ヿ]+",
                           kDeepSeekLlmCjk = "[一-龥ࠀ-一가-퟿]+";
constexpr std::string_view kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLineEnd = "[\r\n]", kFalconPunctuation = R"([\p{P}\$\+<=>\^~\|`]+)";
// The cased letters of the scripts that have case.
constexpr std::string_view kDeepSeekLetters =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr std::string_view kDeepSeekPunctuation = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";

// Names with the same steps stand together; the first is the one that is written.
constexpr GgufPreTokenizer kPreTokenizers[] = {
    {"gpt-2", {}, false, false, false},
    {"phi-2", {}, false, false, false},
    {"olmo", {}, false, false, false},
    {"mpt", {}, false, false, false},
    {"jais", {}, false, false, false},
    {"exaone4", {}, false, false, false},
    {"trillion", {}, false, false, false},
    {"granite-docling", {}, false, false, false},
    {"gigachat", {}, false, false, false},
    {"mellum", {}, false, false, false},
    {"smollm", {}, true, false, false},
    {"starcoder", {}, true, false, false},
    {"refact", {}, true, false, false},
    {"command-r", {}, true, false, false},
    {"codeshell", {}, true, false, false},
    {"exaone", {}, true, false, false},
    {"minerva-7b", {}, true, false, false},
    {"llama-bpe", {kLlama3}, false, true, true},
    {"llama3", {kLlama3}, false, true, true},
    {"llama-v3", {kLlama3}, false, true, true},
    {"falcon3", {kLlama3}, false, true, true},
    {"falcon-h1", {kLlama3}, false, true, true},
    {"pixtral", {kLlama3}, false, true, true},
    {"midm-2.0", {kLlama3}, false, true, true},
    {"lfm2", {kLlama3}, false, true, true},
    {"smaug-bpe", {kLlama3}, false, false, false},
    {"dbrx", {kLlama3}, false, false, false},
    {"chatglm-bpe", {kLlama3}, false, false, false},
    {"glm4", {kLlama3}, false, false, false},
    {"qwen2", {kQwen2}, false, false, false},
    {"deepseek-r1-qwen", {kQwen2}, false, false, false},
    {"stablelm2", {kQwen2}, false, false, false},
    {"megrez", {kQwen2}, false, false, false},
    {"hunyuan", {kQwen2}, false, false, false},
    {"solar-open", {kQwen2}, false, false, false},
    {"grok-2", {kQwen2}, false, false, false},
    {"qwen35", {kQwen35}, false, false, false},
    {"gpt-4o", {kGpt4o}, false, false, false},
    {"llama4", {kGpt4o}, false, false, false},
    {"kanana2", {kGpt4o}, false, false, false},
    {"minimax-m2", {kGpt4o}, false, false, false},
    {"tekken", {kTekken}, false, true, true},
    {"bailingmoe", {kBailing}, false, false, false},
    {"bailingmoe2", {kBailing}, false, false, false},
    {"llada-moe", {kBailing}, false, false, false},
    {"seed-coder", {kSeedCoder}, false, false, false},
    {"deepseek-v3", {kThreeDigits, kDeepSeekCjk, kDeepSeek3}, false, false, false},
    {"hunyuan-dense", {kThreeDigits, kDeepSeekCjk, kDeepSeek3}, false, false, false},
    {"joyai-llm", {kThreeDigits, kDeepSeekCjk, kDeepSeek3}, false, false, false},
    {"deepseek-llm",
     {kLineEnd, kDeepSeekLetters, kDeepSeekPunctuation, R"(\s+$)", kDeepSeekLlmCjk, R"(\p{N}+)"},
     false,
     false,
     false},
    {"deepseek-coder",
     {kLineEnd, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepSeekLlmCjk, kDigit},
     false,
     false,
     false},
    {"falcon", {kFalconPunctuation, kGpt2, "[0-9][0-9][0-9]"}, false, false, false},
    {"bloom", {kBloom}, false, false, false},
    {"poro-chat", {kBloom}, false, false, false},
    {"gpt3-finnish", {kBloom}, false, false, false},
    {"viking", {kBloom, kDigit}, false, false, false},
};

enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6 };

// The lists of the vocabulary, of equal length.
struct Vocabulary {
  const GgufValue* tokens = nullptr;
  const GgufValue* types = nullptr;   // null: all normal
  const GgufValue* scores = nullptr;  // null: zeros
  int64_t type(uint64_t id) const { return types == nullptr ? int64_t{kNormal} : types->integer(id); }
};

const GgufValue* list(const GgufFile& file, std::string_view key, bool texts, uint64_t count) {
  const GgufValue* value = file.find_value(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array || value->is_text() != texts || (count != 0 && value->count != count))
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, expected a list of {}{}", file.files()[0],
         key, value->to_string(), count != 0 ? fmt::format("{} ", count) : "", texts ? "texts" : "numbers");
  return value;
}

Vocabulary vocabulary(const GgufFile& file) {
  Vocabulary result;
  result.tokens = list(file, "tokenizer.ggml.tokens", true, 0);
  if (result.tokens == nullptr || result.tokens->count == 0)
    fail(ErrorCode::kMalformedFile, "{}: no \"tokenizer.ggml.tokens\"", file.files()[0]);
  result.types = list(file, "tokenizer.ggml.token_type", false, result.tokens->count);
  result.scores = list(file, "tokenizer.ggml.scores", false, result.tokens->count);
  return result;
}

// The text of the token that `key` names; empty when there is none.
std::string token_at(const GgufFile& file, const Vocabulary& words, const char* key) {
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

Json split_step(std::string_view expression) {
  return {
      {"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}

std::string byte_level_json(const GgufFile& file, const Vocabulary& words, bool* bos) {
  const std::string pre = file.text_or("tokenizer.ggml.pre", "gpt-2");
  const GgufPreTokenizer* kind = find_gguf_pre_tokenizer(pre == "default" ? "gpt-2" : pre);
  if (kind == nullptr)
    fail(ErrorCode::kUnsupported, "{}: the pre-tokenizer \"{}\" is not known to this version",
         file.files()[0], pre);
  Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  Json steps = Json::array();
  if (kind->single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  for (const std::string_view expression : kind->expressions) {
    if (expression.empty()) break;
    steps.push_back(split_step(expression));
    byte_level["use_regex"] = false;
  }
  steps.push_back(byte_level);
  Json model = {{"type", "BPE"}, {"byte_fallback", false}, {"ignore_merges", kind->whole_words}};
  Json added = Json::array();
  for (uint64_t id = 0; id < words.tokens->count; ++id) {
    const std::string text(words.tokens->text(id));
    const int64_t type = words.type(id);
    if (type == kControl || type == kUserDefined || type == kUnknown)
      added.push_back({{"id", id},
                       {"content", text},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type != kUserDefined}});
  }
  std::map<std::string, uint64_t> vocab;
  for (uint64_t id = 0; id < words.tokens->count; ++id) vocab[std::string(words.tokens->text(id))] = id;
  const GgufValue* merges = list(file, "tokenizer.ggml.merges", true, 0);
  Json merge_list = Json::array();
  if (merges != nullptr)
    for (const std::string_view merge : merges->strings) merge_list.push_back(std::string(merge));
  model["vocab"] = vocab;
  model["merges"] = std::move(merge_list);
  *bos = flag_or(file, "tokenizer.ggml.add_bos_token", kind->bos);
  Json post = nullptr;
  const std::string bos_text = token_at(file, words, "tokenizer.ggml.bos_token_id");
  if (*bos && !bos_text.empty()) {
    Json special = {{"SpecialToken", {{"id", bos_text}, {"type_id", 0}}}};
    Json sequence = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    post = {{"type", "TemplateProcessing"},
            {"single", Json::array({special, sequence})},
            {"pair", Json::array({special, sequence})},
            {"special_tokens",
             {{bos_text,
               {{"id", bos_text},
                {"ids", Json::array({file.integer_or("tokenizer.ggml.bos_token_id", 0)})},
                {"tokens", Json::array({bos_text})}}}}}};
  }
  Json document;
  document["version"] = "1.0";
  document["truncation"] = nullptr;
  document["padding"] = nullptr;
  document["added_tokens"] = std::move(added);
  document["normalizer"] = kind->expressions[0] == kQwen2 || kind->expressions[0] == kQwen35
                               ? Json{{"type", "NFC"}}
                               : Json(nullptr);
  document["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  document["post_processor"] = post;
  document["decoder"] = byte_level;
  document["model"] = std::move(model);
  return document.dump(-1, Json::Invalid::kReplace) + "\n";
}

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

}  // namespace

const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name) noexcept {
  for (const GgufPreTokenizer& entry : kPreTokenizers)
    if (entry.name == name) return &entry;
  return nullptr;
}

const GgufPreTokenizer* match_gguf_pre_tokenizer(const std::vector<std::string>& expressions,
                                                 bool single_digits, bool whole_words) noexcept {
  for (const GgufPreTokenizer& entry : kPreTokenizers) {
    size_t count = 0;
    while (count < entry.expressions.size() && !entry.expressions[count].empty()) ++count;
    if (std::equal(expressions.begin(), expressions.end(), entry.expressions.begin(),
                   entry.expressions.begin() + count) &&
        entry.single_digits == single_digits && entry.whole_words == whole_words)
      return &entry;
  }
  return nullptr;
}

std::vector<int64_t> gguf_end_tokens(const GgufFile& file) {
  std::vector<int64_t> ends;
  const auto add = [&](int64_t id) {
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    add(file.integer_or(key, -1));
  const GgufValue* tokens = list(file, "tokenizer.ggml.tokens", true, 0);
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
  const Vocabulary words = vocabulary(file);
  GgufPieces pieces;
  for (uint64_t id = 0; id < words.tokens->count; ++id) {
    const std::string_view text = words.tokens->text(id);
    int64_t type = words.type(id);
    if (type < kNormal || type > kByte) type = kNormal;  // "undefined"
    if (is_end_name(text)) type = kControl;
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
  std::string name = file.text_or("general.name", "");
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<uint8_t>(c)));
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
  const Vocabulary words = vocabulary(file);
  bool bos = flag_or(file, "tokenizer.ggml.add_bos_token", true);
  if (kind == "gpt2")
    files["tokenizer.json"] = byte_level_json(file, words, &bos);
  else
    files["tokenizer.model"] = sentencepiece_model(gguf_pieces(file));
  Json config;
  config["tokenizer_class"] = kind == "gpt2" ? "PreTrainedTokenizerFast" : "LlamaTokenizer";
  config["add_bos_token"] = bos;
  config["add_eos_token"] = flag_or(file, "tokenizer.ggml.add_eos_token", false);
  for (const auto& [key, name] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token"},
                                  {"tokenizer.ggml.eos_token_id", "eos_token"},
                                  {"tokenizer.ggml.unknown_token_id", "unk_token"},
                                  {"tokenizer.ggml.padding_token_id", "pad_token"}}) {
    const std::string text = token_at(file, words, key);
    if (!text.empty()) config[name] = text;
  }
  const std::string chat = file.text_or("tokenizer.chat_template", "");
  if (!chat.empty()) config["chat_template"] = chat;
  files["tokenizer_config.json"] = config.dump(2, Json::Invalid::kReplace) + "\n";
  return files;
}

}  // namespace nfloat
