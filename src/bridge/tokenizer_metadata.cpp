// SPDX-License-Identifier: Apache-2.0
#include "bridge/tokenizer_metadata.h"

#include <algorithm>
#include <unordered_map>

#include "base/fail.h"
#include "base/json.h"
#include "convert/output.h"
#include "llama_cpp/tokenizer.h"
#include "nfloat/tokenizer.h"
#include "tokenizer/sentencepiece_file.h"

namespace nfloat {
namespace {

enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

constexpr std::string_view kVisibleSpace = "\xe2\x96\x81";
constexpr float kAddedScore = -1000, kUnusedScore = -10000;

struct Words {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  std::vector<float> scores;  // of SentencePiece
  std::vector<std::string> merges;
  std::string kind = "gpt2", pre = "default";
  bool space_prefix = true;
};

Json parse(const Checkpoint& checkpoint, const char* name) {
  const std::string text = checkpoint.text_file(name);
  if (text.empty()) return nullptr;
  return parse_json_object(text, fmt::format("{}/{}", checkpoint.path(), name), {.depth = 64});
}

bool flag_at(const Json& object, const char* key) {
  const Json& value = object[key];
  return value.is_boolean() && value.get<bool>();
}

void put(Words& words, int64_t id, std::string text, int32_t type, float score) {
  if (id < 0 || id >= static_cast<int64_t>(words.texts.size())) return;
  const auto i = static_cast<size_t>(id);
  words.texts[i] = std::move(text);
  words.types[i] = type;
  words.scores[i] = score;
}

// `token`: an entry of "added_tokens" or of "added_tokens_decoder".
void put_added(Words& words, int64_t id, const Json& token) {
  std::string text = text_of(token, "content");
  if (text.empty()) return;
  const bool special = flag_at(token, "special");
  // llama.cpp compares user-defined tokens with the text as it was written.
  if (!special)
    for (size_t i = 0; (i = text.find(kVisibleSpace, i)) != std::string::npos; ++i)
      text.replace(i, kVisibleSpace.size(), 1, ' ');
  put(words, id, std::move(text), special ? kControl : kUserDefined, kAddedScore);
}

// What stands before ByteLevel, as the table of pre-tokenizers has it; false when it is something else.
bool read_steps(const Json& pre_tokenizer, std::vector<std::string>& expressions, bool& digits) {
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

// The ids of the model's own tokens.
void put_vocabulary(const Json& model, Words& words) {
  for (const auto& [text, id] : model["vocab"].items())
    if (id.is_number_integer()) put(words, id.get<int64_t>(), text, kNormal, kAddedScore);
}

std::vector<std::string> merges_of(const Json& model) {
  std::vector<std::string> merges;
  for (const Json& merge : model["merges"]) {
    if (merge.is_string())
      merges.push_back(merge.get<std::string>());
    else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      merges.push_back(fmt::format("{} {}", merge[0].text(), merge[1].text()));
  }
  return merges;
}

// SentencePiece joins the pair with the best score: the first merge that makes a token has it.
void score_by_merges(const std::vector<std::string>& merges, Words& words) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < words.texts.size(); ++id)
    if (words.types[id] == kNormal) ids.emplace(words.texts[id], id);
  for (size_t rank = merges.size(); rank-- > 0;) {
    const size_t space = merges[rank].find(' ');
    if (space == std::string::npos) continue;
    const std::string joined = merges[rank].substr(0, space) + merges[rank].substr(space + 1);
    const auto found = ids.find(joined);
    if (found != ids.end()) words.scores[found->second] = -static_cast<float>(rank);
  }
}

bool is_byte_token(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>';
}

// Whether normalizer or pre-tokenizer write a visible space before the text.
bool prepends_space(const Json& json) {
  const std::string type = text_of(json, "type");
  if (type == "Prepend") return true;
  if (type == "Metaspace") {
    const std::string scheme = text_of(json, "prepend_scheme");
    const Json& prefix = json["add_prefix_space"];
    return scheme.empty() ? !prefix.is_boolean() || prefix.get<bool>() : scheme != "never";
  }
  for (const char* list : {"normalizers", "pretokenizers"})
    for (const Json& step : json[list])
      if (prepends_space(step)) return true;
  return false;
}

// Empty when llama.cpp has nothing that gives the same tokens, with the reason in `why`.
bool read_tokenizer_json(const Json& json, Words& words, std::string& why) {
  const Json& model = json["model"];
  if (text_of(model, "type") != "BPE") {
    why = "a tokenizer of type " + text_of(model, "type");
    return false;
  }
  std::vector<std::string> expressions;
  bool digits = false;
  put_vocabulary(model, words);
  std::vector<std::string> merges = merges_of(model);
  if (read_steps(json["pre_tokenizer"], expressions, digits)) {
    const GgufPreTokenizer* kind =
        match_gguf_pre_tokenizer(expressions, digits, flag_at(model, "ignore_merges"));
    if (kind == nullptr) {
      why = "a pre-tokenizer that llama.cpp does not have (" +
            fmt::format("{}", fmt::join(expressions, ", ")) + ")";
      return false;
    }
    words.pre = kind->name;
    words.merges = std::move(merges);
  } else if (flag_at(model, "byte_fallback")) {
    words.kind = "llama";
    words.space_prefix = prepends_space(json["normalizer"]) || prepends_space(json["pre_tokenizer"]);
    score_by_merges(merges, words);
    for (size_t id = 0; id < words.texts.size(); ++id)
      if (words.types[id] == kNormal && is_byte_token(words.texts[id])) words.types[id] = kByte;
    const std::string unknown = text_of(model, "unk_token");
    for (size_t id = 0; !unknown.empty() && id < words.texts.size(); ++id)
      if (words.texts[id] == unknown) words.types[id] = kUnknown;
  } else {
    why = "a pre-tokenizer that llama.cpp does not have";
    return false;
  }
  for (const Json& token : json["added_tokens"]) {
    const Json& id = token["id"];
    if (id.is_number_integer()) put_added(words, id.get<int64_t>(), token);
  }
  return true;
}

bool read_tokenizer_model(const std::string& bytes, const std::string& source, const Json& config,
                          Words& words, std::string& why) {
  const SentencePieceFile file = read_sentencepiece_file(bytes, source);
  if (!file.is_bpe) {
    why = "a SentencePiece unigram model";
    return false;
  }
  words.kind = "llama";
  words.space_prefix = file.add_dummy_prefix;
  for (size_t id = 0; id < file.pieces.size(); ++id)
    put(words, static_cast<int64_t>(id), std::string(file.pieces[id].text), file.pieces[id].type,
        file.pieces[id].score);
  for (const auto& [id, token] : config["added_tokens_decoder"].items()) {
    int64_t number = 0;
    for (const char c : id) number = c >= '0' && c <= '9' && number < 1 << 30 ? 10 * number + (c - '0') : -1;
    // Pieces of the model keep their scores and types.
    if (number >= static_cast<int64_t>(file.pieces.size())) put_added(words, number, token);
  }
  return true;
}

// "bos_token" is a text or an object that holds one.
std::string special_text(const Json& config, const char* key) {
  const Json& value = config[key];
  return value.is_object() ? text_of(value, "content") : text_of(config, key);
}

std::string chat_template(const Checkpoint& checkpoint, const Json& config) {
  std::string text = checkpoint.text_file("chat_template.jinja");
  if (!text.empty()) return text;
  const Json& value = config["chat_template"];
  if (value.is_string()) return value.get<std::string>();
  for (const Json& named : value)
    if (text_of(named, "name") == "default") return text_of(named, "template");
  return {};
}

}  // namespace

void append_tokenizer(const Checkpoint& checkpoint, int64_t vocabulary, const std::vector<int32_t>& ends,
                      GgufMetadata& metadata, std::vector<std::string>& notes) {
  const Json config = parse(checkpoint, "tokenizer_config.json");
  Words words;
  const auto count = static_cast<size_t>(vocabulary);
  words.texts.resize(count);
  words.types.assign(count, kUnused);
  words.scores.assign(count, kUnusedScore);
  for (size_t id = 0; id < count; ++id) words.texts[id] = fmt::format("[PAD{}]", id);

  std::string why = "no tokenizer";
  bool known = false;
  if (const Json json = parse(checkpoint, "tokenizer.json"); !json.is_null()) {
    known = read_tokenizer_json(json, words, why);
  } else if (const std::string model = checkpoint.text_file("tokenizer.model"); !model.empty()) {
    known = read_tokenizer_model(model, checkpoint.path() + "/tokenizer.model", config, words, why);
  }
  if (!known) {
    notes.push_back("the file has no tokenizer: the checkpoint has " + why);
    metadata.text("tokenizer.ggml.model", "no_vocab");
    return;
  }
  metadata.text("tokenizer.ggml.model", words.kind);
  metadata.text("tokenizer.ggml.pre", words.pre);
  metadata.texts("tokenizer.ggml.tokens", words.texts);
  if (words.kind == "llama") metadata.numbers("tokenizer.ggml.scores", words.scores);
  metadata.integers("tokenizer.ggml.token_type", words.types);
  if (words.kind == "gpt2") metadata.texts("tokenizer.ggml.merges", words.merges);

  // Which special tokens stand around a text: what Hugging Face's tokenizer does is what counts.
  const Tokenizer tokenizer = Tokenizer::load(checkpoint.path());
  const auto id_of = [&](const char* key) -> int64_t {
    const std::string text = special_text(config, key);
    const auto id = text.empty() ? std::nullopt : tokenizer.token_id(text);
    return id && *id < vocabulary ? *id : -1;
  };
  const auto put_id = [&](const char* key, int64_t id) {
    if (id >= 0) metadata.u32(key, static_cast<uint32_t>(id));
  };
  const std::vector<int32_t> around = tokenizer.encode("a");
  int64_t bos = id_of("bos_token"), eos = ends.empty() ? id_of("eos_token") : ends.front();
  if (bos < 0 && tokenizer.bos_id()) bos = *tokenizer.bos_id();
  put_id("tokenizer.ggml.bos_token_id", bos);
  put_id("tokenizer.ggml.eos_token_id", eos);
  if (ends.size() > 1) put_id("tokenizer.ggml.eot_token_id", ends[1]);
  if (ends.size() > 2) put_id("tokenizer.ggml.eom_token_id", ends[2]);
  if (ends.size() > 3)
    notes.push_back(fmt::format("{} of {} ids that end a text", ends.size() - 3, ends.size()));
  put_id("tokenizer.ggml.unknown_token_id", id_of("unk_token"));
  put_id("tokenizer.ggml.padding_token_id", id_of("pad_token"));
  metadata.flag("tokenizer.ggml.add_bos_token", bos >= 0 && !around.empty() && around.front() == bos);
  metadata.flag("tokenizer.ggml.add_eos_token", eos >= 0 && around.size() > 1 && around.back() == eos);
  if (words.kind == "llama") metadata.flag("tokenizer.ggml.add_space_prefix", words.space_prefix);
  if (const std::string chat = chat_template(checkpoint, config); !chat.empty())
    metadata.text("tokenizer.chat_template", chat);
  if (tokenizer.vocab_size() > vocabulary)
    notes.push_back(fmt::format("{} tokens beyond the {} rows of the embedding",
                                tokenizer.vocab_size() - vocabulary, vocabulary));
}

}  // namespace nfloat
