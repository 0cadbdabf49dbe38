// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "tokenizer/added_tokens.h"
#include "tokenizer/json_at.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/token_model.h"
#include "tokenizer/tokenizer_state.h"

namespace nfloat {
namespace {

// The pipeline of a tokenizer.json: added tokens, normalizer, pre-tokenizer, model, post-processor; decoder.
class JsonTokenizer final : public Tokenizer::State {
 public:
  explicit JsonTokenizer(const JsonAt& json) {
    model_ = make_token_model(json["model"]);
    normalizer_ = make_normalizer(json["normalizer"]);
    pre_tokenizer_ = make_pre_tokenizer(json["pre_tokenizer"], model_->takes_bytes());
    added_ = AddedTokens(json["added_tokens"], model_->vocabulary(), normalizer_.get());
    surroundings_ = read_post_processor(json["post_processor"]);
    decoder_ = Decoder(json["decoder"]);
    vocab_size = std::max(model_->vocabulary().size(), added_.largest_id() + 1);
    check_ids(json["post_processor"], surroundings_.before);
    check_ids(json["post_processor"], surroundings_.after);
    if (surroundings_.before.size() == 1) bos = surroundings_.before[0];
  }

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    if (options.add_special_tokens) ids = surroundings_.before;
    std::vector<TextPart> parts, inner;
    added_.split(text, false, options.parse_special_tokens, parts);
    for (const TextPart& part : parts) {
      if (part.id != kNoToken) {
        ids.push_back(part.id);
        continue;
      }
      std::string normal(text.substr(part.begin, part.end - part.begin));
      if (normalizer_ != nullptr) normalizer_->apply(normal);
      if (!added_.any(true)) {
        encode_plain(std::move(normal), part.begin == 0, ids);
        continue;
      }
      inner.clear();
      added_.split(normal, true, options.parse_special_tokens, inner);
      for (const TextPart& piece : inner) {
        if (piece.id != kNoToken)
          ids.push_back(piece.id);
        else
          encode_plain(normal.substr(piece.begin, piece.end - piece.begin), part.begin + piece.begin == 0,
                       ids);
      }
    }
    if (options.add_special_tokens)
      ids.insert(ids.end(), surroundings_.after.begin(), surroundings_.after.end());
    return ids;
  }

  void surround(bool with_bos, bool with_eos) override {
    surroundings_ = {};
    if (with_bos && bos) surroundings_.before = {*bos};
    if (with_eos && eos) surroundings_.after = {*eos};
  }

  std::string decode_bytes(Decoding decoding) const override { return decoder_.run(std::move(decoding)); }

  std::string_view token_text(int32_t id) const override {
    const AddedToken* added = added_.find(id);
    return added != nullptr ? std::string_view(added->text) : model_->vocabulary().text(id);
  }
  bool is_added(int32_t id) const override { return added_.find(id) != nullptr; }
  bool is_special(int32_t id) const override {
    const AddedToken* added = added_.find(id);
    return added != nullptr && added->special;
  }
  int32_t find(std::string_view text) const override {
    const AddedToken* added = added_.find(text);
    return added != nullptr ? added->id : model_->vocabulary().find(text);
  }

 private:
  void encode_plain(std::string text, bool at_start, std::vector<int32_t>& ids) const {
    Pieces pieces;
    pieces.text = std::move(text);
    pieces.at_text_start = at_start;
    if (!pieces.text.empty()) pieces.ranges.push_back({0, pieces.text.size()});
    if (pre_tokenizer_ != nullptr) pre_tokenizer_->run(pieces);
    model_->encode(pieces, ids);
  }

  void check_ids(const JsonAt& json, const std::vector<int32_t>& ids) const {
    for (const int32_t id : ids)
      if (id >= vocab_size)
        json.malformed(fmt::format("token id {} is outside the vocabulary of {}", id, vocab_size));
  }

  std::unique_ptr<const TokenModel> model_;
  std::unique_ptr<const Normalizer> normalizer_;
  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  AddedTokens added_;
  Surroundings surroundings_;
  Decoder decoder_;
};

// "bos_token": "<s>", or an object with its "content".
void read_named_token(const JsonAt& json, const Tokenizer::State& state, std::optional<int32_t>& id) {
  if (!json.present()) return;
  const int32_t found = state.find(json.raw().is_object() ? json["content"].text() : json.text());
  if (found != kNoToken) id = found;
}

}  // namespace

std::shared_ptr<Tokenizer::State> build_json_tokenizer(const Json& document, const std::string& source) {
  return std::make_shared<JsonTokenizer>(JsonAt(document, source));
}

std::shared_ptr<Tokenizer::State> load_tokenizer_json(std::string_view text, const std::string& source) {
  return build_json_tokenizer(parse_tokenizer_json(text, source), source);
}

std::map<int32_t, Json> tokens_beside(const std::string& folder) {
  namespace fs = std::filesystem;
  std::map<int32_t, Json> tokens;
  const auto read = [&](const char* name, const char* list, auto&& take) {
    const fs::path path = fs::path(folder) / name;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return;
    const std::string source = path.string();
    const MappedFile file(source);
    const Json document = parse_tokenizer_json(text_of(file), source);
    const JsonAt json(document, source);
    const JsonAt entries = list == nullptr ? json : json[list];
    if (entries.present())
      for (const auto& [key, value] : entries.object().items()) take(key, entries[key.c_str()]);
  };
  const auto token = [](int32_t id, const std::string& text, bool special) {
    return Json{{"id", id}, {"content", text}, {"special", special}, {"normalized", false}};
  };
  read("added_tokens.json", nullptr, [&](const std::string& text, const JsonAt& id) {
    const auto number = static_cast<int32_t>(id.integer(0, kMaxTokenId));
    tokens[number] = token(number, text, false);
  });
  read("tokenizer_config.json", "added_tokens_decoder", [&](const std::string& key, const JsonAt& entry) {
    int32_t id = kNoToken;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || id < 0 || id > kMaxTokenId)
      entry.malformed("its key is not a token id");
    tokens[id] = Json(entry.object());
    tokens[id]["id"] = id;
  });
  return tokens;
}

namespace {

// Tokens of the vocabulary that special_tokens_map.json names are special, as Transformers makes them.
void add_special_tokens(Json& document, const std::string& path) {
  const std::filesystem::path map_path =
      std::filesystem::path(path).parent_path() / "special_tokens_map.json";
  std::error_code ignored;
  if (!std::filesystem::exists(map_path, ignored)) return;
  const std::string source = map_path.string();
  const MappedFile file(source);
  const Json map = parse_tokenizer_json(text_of(file), source);
  std::set<std::string> known, named;
  const auto name = [&](const JsonAt& token) {
    named.insert(token.raw().is_object() ? token["content"].text() : token.text());
  };
  const JsonAt json(map, source);
  for (const auto& [key, value] : json.object().items()) {
    const JsonAt entry = json[key.c_str()];
    if (!entry.present()) continue;
    if (!value.is_array()) {
      name(entry);
      continue;
    }
    for (const JsonAt& one : entry.elements()) name(one);
  }
  const JsonAt whole(document, path);
  if (const JsonAt list = whole["added_tokens"]; list.present())
    for (const JsonAt& entry : list.elements()) known.insert(entry["content"].text());
  const JsonAt vocab = whole["model"]["vocab"];
  if (!vocab.present() || !vocab.raw().is_object()) return;
  Json more = Json::array();
  for (const std::string& text : named) {
    const JsonAt id = vocab[text.c_str()];
    if (!known.contains(text) && id.present())
      more.push_back(
          {{"id", id.integer(0, kMaxTokenId)}, {"content", text}, {"special", true}, {"normalized", false}});
  }
  if (more.empty()) return;
  if (!document.contains("added_tokens") || !document["added_tokens"].is_array())
    document["added_tokens"] = Json::array();
  for (const Json& token : more) document["added_tokens"].push_back(token);
}

}  // namespace

std::shared_ptr<Tokenizer::State> load_folder_json(const std::string& path) {
  const MappedFile file(path);
  Json document = parse_tokenizer_json(text_of(file), path);
  std::map<int32_t, Json> beside = tokens_beside(std::filesystem::path(path).parent_path().string());
  if (!beside.empty()) {
    const JsonAt json(document, path);
    std::set<std::string> known;
    if (const JsonAt list = json["added_tokens"]; list.present())
      for (const JsonAt& entry : list.elements()) known.insert(entry["content"].text());
    else
      document["added_tokens"] = Json::array();
    for (auto& [id, token] : beside)
      if (!known.contains(JsonAt(token, path)["content"].text()))
        document["added_tokens"].push_back(std::move(token));
  }
  add_special_tokens(document, path);
  return build_json_tokenizer(document, path);
}

void read_tokenizer_config(std::string_view text, const std::string& source, Tokenizer::State& state) {
  const Json document = parse_tokenizer_json(text, source);
  const JsonAt json(document, source);
  read_named_token(json["bos_token"], state, state.bos);
  read_named_token(json["eos_token"], state, state.eos);
  const JsonAt with_bos = json["add_bos_token"], with_eos = json["add_eos_token"];
  state.add_bos = with_bos.flag_or(state.add_bos);
  state.add_eos = with_eos.flag_or(state.add_eos);
  // These classes make their post-processor from the two flags, whatever tokenizer.json has.
  std::string name = json["tokenizer_class"].text_or("");
  for (const char* suffix : {"Fast", "Tokenizer"})
    if (name.ends_with(suffix)) name.resize(name.size() - std::string_view(suffix).size());
  const bool rebuilds = name == "Llama" || name == "CodeLlama" || name == "Gemma" || name == "Cohere";
  if (rebuilds && (with_bos.present() || with_eos.present()))
    state.surround(with_bos.flag_or(true), with_eos.flag_or(false));
}

}  // namespace nfloat
