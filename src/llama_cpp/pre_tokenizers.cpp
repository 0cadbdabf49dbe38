// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/pre_tokenizers.h"

#include <algorithm>

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
    {"a.x-4.0", {}, false, false, false},
    {"exaone4", {}, false, false, false},
    {"trillion", {}, false, false, false},
    {"granite-docling", {}, false, false, false},
    {"gigachat", {}, false, false, false},
    {"mellum", {}, false, false, false},
    {"smollm", {}, true, false, false},
    {"starcoder", {}, true, false, false},
    {"refact", {}, true, false, false},
    {"command-r", {}, true, false, false},
    {"cohere2_moe", {}, true, false, false},
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
    {"kormo", {kQwen2}, false, false, false},
    {"f2llmv2", {kQwen2}, false, false, false},
    {"openpangu", {kQwen2}, false, false, false},
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
    // Words may go on over spaces; digits by threes from the right.
    {"superbpe", {R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"}, false, false, false},
};

Json split_step(std::string_view expression) {
  return {
      {"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}, {"invert", false}};
}

}  // namespace

bool flag_at(const Json& object, const char* key) {
  const Json& value = object[key];
  return value.is_boolean() && value.get<bool>();
}

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

Json byte_level_step(bool own_expression) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", own_expression}};
}

Json pre_tokenizer_json(const GgufPreTokenizer& kind) {
  Json steps = Json::array();
  if (kind.single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  for (const std::string_view expression : kind.expressions)
    if (!expression.empty()) steps.push_back(split_step(expression));
  steps.push_back(byte_level_step(kind.expressions[0].empty()));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json normalizer_json(const GgufPreTokenizer& kind) {
  if (kind.expressions[0] == kQwen2 || kind.expressions[0] == kQwen35) return {{"type", "NFC"}};
  return nullptr;
}

bool read_pre_tokenizer(const Json& pre_tokenizer, std::vector<std::string>& expressions, bool& digits) {
  std::vector<const Json*> steps;
  if (text_of(pre_tokenizer, "type") == "Sequence") {
    for (const Json& step : pre_tokenizer["pretokenizers"]) steps.push_back(&step);
  } else {
    steps.push_back(&pre_tokenizer);
  }
  bool byte_level = false;
  for (const Json* step : steps) {
    const std::string type = text_of(*step, "type");
    if (byte_level) return false;
    if (type == "ByteLevel") {
      byte_level = true;
      if (flag_at(*step, "add_prefix_space")) return false;
      const Json& own = (*step)["use_regex"];
      if ((!own.is_boolean() || own.get<bool>()) != expressions.empty()) return false;
    } else if (type == "Digits" && flag_at(*step, "individual_digits") && expressions.empty()) {
      digits = true;
    } else if (type == "Split" && text_of(*step, "behavior") == "Isolated" && !flag_at(*step, "invert")) {
      expressions.push_back(text_of((*step)["pattern"], "Regex"));
      if (expressions.back().empty()) return false;
    } else {
      return false;
    }
  }
  return byte_level;
}

}  // namespace nfloat
