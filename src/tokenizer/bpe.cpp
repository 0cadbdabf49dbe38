// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "llama_cpp/vocabulary.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/merges.h"
#include "tokenizer/token_model.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

struct BpeOptions {
  int32_t unknown = kNoToken;
  bool fuse_unknown = false;
  bool byte_fallback = false;
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges would make
  std::string subword_prefix;  // of every character but the first
  std::string end_suffix;      // of the last character
};

class Bpe final : public TokenModel {
 public:
  Bpe(Vocabulary vocabulary, Merges merges, BpeOptions options)
      : TokenModel(std::move(vocabulary)), merges_(std::move(merges)), options_(std::move(options)) {
    if (options_.byte_fallback) bytes_ = byte_tokens(vocabulary_);
    all_bytes_known_ = options_.subword_prefix.empty() && options_.end_suffix.empty();
    for (size_t byte = 0; byte < 256; ++byte) {
      std::string character;
      append_utf8(character, byte_alphabet()[byte]);
      byte_level_[byte] = vocabulary_.find(character);
      all_bytes_known_ = all_bytes_known_ && byte_level_[byte] != kNoToken;
    }
    find_word_ends();
  }

  bool takes_bytes() const noexcept override { return true; }

 private:
  void encode_word(std::string_view word, bool is_bytes, std::vector<int32_t>& tokens) const override {
    if (is_bytes && all_bytes_known_) {
      if (options_.ignore_merges && find_whole(to_byte_level(word), tokens)) return;
      for (const char byte : word) tokens.push_back(byte_level_[static_cast<uint8_t>(byte)]);
    } else if (is_bytes) {
      const std::string text = to_byte_level(word);
      if (options_.ignore_merges && find_whole(text, tokens)) return;
      split_characters(text, tokens);
    } else {
      if (options_.ignore_merges && find_whole(word, tokens)) return;
      split_characters(word, tokens);
    }
    merges_.apply(tokens);
  }

  // Files without a pre-tokenizer have whole texts as pieces, spaces written U+2581. Where no token goes on
  // over one, no merge does, and the word before it can be cut on its own.
  void find_word_ends() {
    cuts_words_ = !options_.ignore_merges && options_.subword_prefix.empty() && options_.end_suffix.empty() &&
                  vocabulary_.find(kVisibleSpace) != kNoToken;
    for (int32_t id = 0; id < vocabulary_.size() && cuts_words_; ++id) {
      const std::string_view text = vocabulary_.text(id);
      for (size_t at = 0; (at = text.find(kVisibleSpace, at + 1)) != std::string_view::npos;)
        goes_on_[static_cast<uint8_t>(text[at - 1])] = true;
    }
  }

  size_t word_end(std::string_view piece) const override {
    if (!cuts_words_) return piece.size();
    size_t at = piece.find(kVisibleSpace, 1);
    while (at != std::string_view::npos && goes_on_[static_cast<uint8_t>(piece[at - 1])])
      at = piece.find(kVisibleSpace, at + 1);
    return std::min(at, piece.size());
  }

  bool find_whole(std::string_view word, std::vector<int32_t>& tokens) const {
    const int32_t id = vocabulary_.find(word);
    if (id != kNoToken) tokens.push_back(id);
    return id != kNoToken;
  }

  void split_characters(std::string_view word, std::vector<int32_t>& tokens) const {
    std::string spelled;
    bool unknown_open = false;  // the last unknown token may take in the next unknown character
    for (size_t at = 0; at < word.size();) {
      const uint32_t bytes = next_char(word, at).bytes;
      std::string_view character = word.substr(at, bytes);
      if (!options_.subword_prefix.empty() || !options_.end_suffix.empty()) {
        spelled.clear();
        if (at > 0) spelled += options_.subword_prefix;
        spelled += character;
        if (at + bytes == word.size()) spelled += options_.end_suffix;
        character = spelled;
      }
      at += bytes;
      const int32_t id = vocabulary_.find(character);
      if (id != kNoToken) {
        tokens.push_back(id);
        unknown_open = false;
      } else if (!fall_back_to_bytes(character, bytes_, tokens) && options_.unknown != kNoToken) {
        if (!unknown_open || !options_.fuse_unknown) tokens.push_back(options_.unknown);
        unknown_open = true;
      }
    }
  }

  Merges merges_;
  BpeOptions options_;
  std::vector<int32_t> bytes_;
  std::array<int32_t, 256> byte_level_{};
  bool all_bytes_known_ = false;
  bool cuts_words_ = false;
  std::array<bool, 256> goes_on_{};  // bytes with U+2581 behind them in some token
};

// One rule: "left right" or ["left", "right"].
std::pair<std::string_view, std::string_view> merge_pair(const JsonAt& json, size_t index) {
  const Json& rule = json.raw()[index];
  if (rule.is_string()) {
    const std::string_view text = rule.text();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
      json.element(index).wrong("two tokens with one space between");
    return {text.substr(0, space), text.substr(space + 1)};
  }
  if (!rule.is_array() || rule.size() != 2 || !rule[0].is_string() || !rule[1].is_string())
    json.element(index).wrong("two tokens");
  return {rule[0].text(), rule[1].text()};
}

Merges read_merges(const JsonAt& json, const Vocabulary& vocabulary, size_t prefix_bytes) {
  if (!json.present() || !json.raw().is_array()) json.wrong("an array");
  Merges merges(json.raw().size());
  std::string merged;
  for (size_t i = 0; i < json.raw().size(); ++i) {
    const auto [left, right] = merge_pair(json, i);
    const auto known = [&](std::string_view text) {
      const int32_t id = vocabulary.find(text);
      if (id == kNoToken)
        json.element(i).malformed(fmt::format("\"{}\" is not in the vocabulary", text.substr(0, 60)));
      return id;
    };
    merged.assign(left);
    merged += right.substr(std::min(prefix_bytes, right.size()));
    const int32_t left_id = known(left), right_id = known(right);
    merges.add(left_id, right_id, {static_cast<uint32_t>(i), known(merged)});
  }
  return merges;
}

}  // namespace

std::unique_ptr<const TokenModel> make_bpe(const JsonAt& json) {
  const JsonAt dropout = json["dropout"];
  if (dropout.present() && dropout.raw() != 0)
    dropout.unsupported("random dropout of merges is not supported");
  Vocabulary vocabulary = Vocabulary::from_object(json["vocab"]);
  BpeOptions options;
  options.unknown = token_named(json["unk_token"], vocabulary);
  options.fuse_unknown = json["fuse_unk"].flag_or(false);
  options.byte_fallback = json["byte_fallback"].flag_or(false);
  options.ignore_merges = json["ignore_merges"].flag_or(false);
  options.subword_prefix = json["continuing_subword_prefix"].text_or("");
  options.end_suffix = json["end_of_word_suffix"].text_or("");
  Merges merges = read_merges(json["merges"], vocabulary, options.subword_prefix.size());
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options));
}

}  // namespace nfloat
