// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/tokenizer_json.h"

#include <map>
#include <unordered_map>

#include "base/fail.h"
#include "llama_cpp/pre_tokenizers.h"
#include "llama_cpp/vocabulary.h"

namespace nfloat {
namespace {

// The ids of the model's own tokens.
void put_vocabulary(const Json& model, GgufWords& words) {
  for (const auto& [text, id] : model["vocab"].items())
    if (id.is_number_integer())
      words.put(id.get<int64_t>(), text, GgufTokenType::kNormal, GgufWords::kAddedScore);
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
void score_by_merges(const std::vector<std::string>& merges, GgufWords& words) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < words.texts.size(); ++id)
    if (words.types[id] == GgufTokenType::kNormal) ids.emplace(words.texts[id], id);
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

}  // namespace

std::string byte_level_json(const GgufFile& file, const GgufVocabulary& words, bool* bos) {
  const std::string pre = file.text_or("tokenizer.ggml.pre", "gpt-2");
  const GgufPreTokenizer* kind = find_gguf_pre_tokenizer(pre == "default" ? "gpt-2" : pre);
  if (kind == nullptr)
    fail(ErrorCode::kUnsupported, "{}: the pre-tokenizer \"{}\" is not known to this version",
         file.files()[0], pre);
  Json model = {{"type", "BPE"}, {"byte_fallback", false}, {"ignore_merges", kind->whole_words}};
  Json added = Json::array();
  for (uint64_t id = 0; id < words.tokens->count; ++id) {
    const std::string text(words.tokens->text(id));
    const auto type = static_cast<GgufTokenType>(words.type(id));
    if (type == GgufTokenType::kControl || type == GgufTokenType::kUserDefined ||
        type == GgufTokenType::kUnknown)
      added.push_back({{"id", id},
                       {"content", text},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type != GgufTokenType::kUserDefined}});
  }
  std::map<std::string, uint64_t> vocab;
  for (uint64_t id = 0; id < words.tokens->count; ++id) vocab[std::string(words.tokens->text(id))] = id;
  // An empty list is one: words that are bytes.
  const GgufValue* merges = gguf_list(file, "tokenizer.ggml.merges", true, 0);
  if (merges == nullptr)
    fail(ErrorCode::kMalformedFile,
         "{}: no \"tokenizer.ggml.merges\", which a tokenizer of the kind \"gpt2\" has", file.files()[0]);
  Json merge_list = Json::array();
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
  document["normalizer"] = normalizer_json(*kind);
  document["pre_tokenizer"] = pre_tokenizer_json(*kind);
  document["post_processor"] = post;
  document["decoder"] = byte_level_step(kind->expressions[0].empty());
  document["model"] = std::move(model);
  return document.dump(-1, Json::Invalid::kReplace) + "\n";
}

void put_added(GgufWords& words, int64_t id, const Json& token) {
  std::string text = text_of(token, "content");
  if (text.empty()) return;
  const bool special = flag_at(token, "special");
  // llama.cpp compares user-defined tokens with the text as it was written.
  if (!special)
    for (size_t i = 0; (i = text.find(kVisibleSpace, i)) != std::string::npos; ++i)
      text.replace(i, kVisibleSpace.size(), 1, ' ');
  words.put(id, std::move(text), special ? GgufTokenType::kControl : GgufTokenType::kUserDefined,
            GgufWords::kAddedScore);
}

bool read_tokenizer_json(const Json& json, GgufWords& words, std::string& why) {
  const Json& model = json["model"];
  if (text_of(model, "type") != "BPE") {
    why = "a tokenizer of type " + text_of(model, "type");
    return false;
  }
  std::vector<std::string> expressions;
  bool digits = false;
  put_vocabulary(model, words);
  std::vector<std::string> merges = merges_of(model);
  if (read_pre_tokenizer(json["pre_tokenizer"], expressions, digits)) {
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
      if (words.types[id] == GgufTokenType::kNormal && is_byte_token(words.texts[id]))
        words.types[id] = GgufTokenType::kByte;
    const std::string unknown = text_of(model, "unk_token");
    for (size_t id = 0; !unknown.empty() && id < words.texts.size(); ++id)
      if (words.texts[id] == unknown) words.types[id] = GgufTokenType::kUnknown;
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

}  // namespace nfloat
