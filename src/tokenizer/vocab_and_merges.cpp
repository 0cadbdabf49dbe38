// SPDX-License-Identifier: Apache-2.0
// vocab.json + merges.txt: byte-level byte-pair encoding as it was shipped before tokenizer.json, with what
// the files beside them say. Written out as the tokenizer.json that Hugging Face's converters make of them.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "base/mapped_file.h"
#include "tokenizer/tokenizer_state.h"
#include "tokenizer/vocabulary.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr const char* kGpt2 = "";  // the expression that ByteLevel has built in
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The tokenizer classes whose files these can be, and the expression that cuts words.
const std::map<std::string, const char*, std::less<>> kClasses = {
    {"", kGpt2},        {"PreTrained", kGpt2}, {"GPT2", kGpt2},   {"Roberta", kGpt2},
    {"Bart", kGpt2},    {"Longformer", kGpt2}, {"LED", kGpt2},    {"Blenderbot", kGpt2},
    {"GPTNeoX", kGpt2}, {"CodeGen", kGpt2},    {"Qwen2", kQwen2},
};
// Those put their first and last token around every text.
constexpr std::string_view kSurrounding[] = {"Roberta", "Bart", "Longformer", "LED"};

std::string class_of(const JsonAt& config) {
  std::string name = config["tokenizer_class"].text_or("");
  for (const char* suffix : {"Fast", "Tokenizer"})
    if (name.ends_with(suffix)) name.resize(name.size() - std::string_view(suffix).size());
  if (!kClasses.contains(name))
    config["tokenizer_class"].unsupported("vocab.json and merges.txt of the tokenizer class \"" +
                                          name.substr(0, 60) + "\" are not supported");
  return name;
}

// A JSON file of the folder; an empty object when it is not there.
class SideFile {
 public:
  explicit SideFile(const fs::path& path) : source_(path.string()), document_(Json::object()) {
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return;
    document_ = parse_tokenizer_json(text_of(MappedFile(source_)), source_);
  }
  JsonAt at() const { return {document_, source_}; }
  Json take() { return std::move(document_); }

 private:
  std::string source_;
  Json document_;
};

// One rule a line; the first line may name a version.
Json read_merges(const fs::path& path) {
  const MappedFile file(path.string());
  std::string_view text = text_of(file);
  check_json_size(text.size(), path.string());
  Json merges = Json::array();
  for (bool first = true; !text.empty(); first = false) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(first && line.starts_with("#version"))) merges.push_back(std::string(line));
  }
  return merges;
}

// Texts of the tokens that "bos_token" and the like name, by that key.
using Named = std::map<std::string, std::string>;

void collect_named(const JsonAt& json, Named& named) {
  const auto content = [](const JsonAt& token) {
    return token.raw().is_object() ? token["content"].text() : token.text();
  };
  for (const char* key :
       {"bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "pad_token", "mask_token"})
    if (const JsonAt token = json[key]; token.present()) named[key] = content(token);
  if (const JsonAt more = json["additional_special_tokens"]; more.present())
    for (const JsonAt& token : more.elements()) named[token.path()] = content(token);
}

int32_t id_of(const JsonAt& vocab, const JsonAt& added, const std::string& text) {
  for (const JsonAt* tokens : {&added, &vocab})
    if (const JsonAt id = (*tokens)[text.c_str()]; id.present())
      return static_cast<int32_t>(id.integer(0, kMaxTokenId));
  return kNoToken;
}

// The added tokens by id: tokenizer_config.json's own list, added_tokens.json, the named special tokens.
std::map<int32_t, Json> added_tokens(const JsonAt& config, const JsonAt& added, const JsonAt& vocab,
                                     const Named& named) {
  std::map<int32_t, Json> tokens;
  const auto add = [&](int32_t id, const std::string& text, bool special) {
    tokens[id] = {{"id", id}, {"content", text}, {"special", special}, {"normalized", false}};
  };
  for (const auto& [text, id] : added.object().items())
    add(static_cast<int32_t>(added[text.c_str()].integer(0, kMaxTokenId)), text, false);
  for (const auto& [key, text] : named)
    if (const int32_t id = id_of(vocab, added, text); id != kNoToken) add(id, text, true);
  if (named.empty())
    if (const int32_t id = id_of(vocab, added, "<|endoftext|>"); id != kNoToken)
      add(id, "<|endoftext|>", true);
  if (const JsonAt list = config["added_tokens_decoder"]; list.present()) {
    for (const auto& [key, token] : list.object().items()) {
      int32_t id = kNoToken;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      const JsonAt entry = list[key.c_str()];
      if (error != std::errc{} || *end != '\0') entry.malformed("its key is not a token id");
      entry.object();
      tokens[id] = token;
      tokens[id]["id"] = id;
    }
  }
  return tokens;
}

Json post_processor(const std::string& name, const JsonAt& config, const JsonAt& vocab, const JsonAt& added,
                    const Named& named) {
  const auto special = [&](const char* key, const char* fallback) {
    const auto found = named.find(key);
    const std::string text = found == named.end() ? fallback : found->second;
    const int32_t id = id_of(vocab, added, text);
    if (id == kNoToken)
      vocab.malformed(fmt::format("the {} \"{}\" is not in the vocabulary", key, text.substr(0, 60)));
    return std::pair(text, id);
  };
  if (std::find(std::begin(kSurrounding), std::end(kSurrounding), name) != std::end(kSurrounding)) {
    const auto first = special("cls_token", "<s>"), last = special("sep_token", "</s>");
    return {{"type", "RobertaProcessing"},
            {"cls", Json::array({first.first, first.second})},
            {"sep", Json::array({last.first, last.second})}};
  }
  if (!config["add_bos_token"].flag_or(false)) return nullptr;
  const auto first = special("bos_token", "<|endoftext|>");
  Json single =
      Json::array({Json{{"SpecialToken", {{"id", first.first}}}}, Json{{"Sequence", {{"id", "A"}}}}});
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"special_tokens", {{first.first, {{"ids", Json::array({first.second})}}}}}};
}

Json pre_tokenizer(const char* expression, bool add_prefix_space) {
  const bool built_in = *expression == '\0';
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"use_regex", built_in}};
  if (built_in) return byte_level;
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}};
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}};
}

}  // namespace

std::shared_ptr<Tokenizer::State> load_vocab_and_merges(const std::string& folder) {
  const fs::path path(folder);
  SideFile vocab(path / "vocab.json");
  const SideFile added(path / "added_tokens.json"), special(path / "special_tokens_map.json"),
      config(path / "tokenizer_config.json");
  const std::string name = class_of(config.at());
  Named named;
  collect_named(config.at(), named);
  collect_named(special.at(), named);

  Json document = {{"added_tokens", Json::array()}, {"decoder", {{"type", "ByteLevel"}}}};
  for (auto& [id, token] : added_tokens(config.at(), added.at(), vocab.at(), named))
    document["added_tokens"].push_back(std::move(token));
  const char* const expression = kClasses.at(name);
  if (expression == kQwen2) document["normalizer"] = {{"type", "NFC"}};
  document["pre_tokenizer"] = pre_tokenizer(expression, config.at()["add_prefix_space"].flag_or(false));
  document["post_processor"] = post_processor(name, config.at(), vocab.at(), added.at(), named);
  document["model"] = {{"type", "BPE"}, {"merges", read_merges(path / "merges.txt")}};
  document["model"]["vocab"] = vocab.take();
  return build_json_tokenizer(document, (path / "vocab.json, merges.txt").string());
}

}  // namespace nfloat
