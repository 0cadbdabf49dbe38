// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/interruption.h"
#include "tokenizer/text_finder.h"
#include "tokenizer/token_model.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

constexpr double kUnknownPenalty = 10;  // below the lowest score of a token, as SentencePiece has it

struct UnigramOptions {
  int32_t unknown = kNoToken;
  bool byte_fallback = false;
};

// The most probable way to cut a piece into tokens (Kudo 2018, "Subword Regularization", by Viterbi).
// Characters without a token are unknown; neighbours that are unknown become one token, or bytes.
class Unigram final : public TokenModel {
 public:
  Unigram(Vocabulary vocabulary, TextFinder finder, std::vector<double> scores, UnigramOptions options,
          std::string where)
      : TokenModel(std::move(vocabulary)),
        finder_(std::move(finder)),
        scores_(std::move(scores)),
        options_(options),
        where_(std::move(where)) {
    if (options_.byte_fallback) bytes_ = byte_tokens(vocabulary_);
    unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  }

 private:
  // The best way to a place: its score, and the last token and its length in bytes.
  struct Node {
    double score = 0;
    int32_t id = kNoToken;
    uint32_t bytes = 0;
  };

  void encode_word(std::string_view word, bool, std::vector<int32_t>& tokens) const override {
    thread_local std::vector<Node> nodes;  // kept between words, given back when one was huge
    nodes.assign(word.size() + 1, {});
    Looks looks;
    for (size_t at = 0; at < word.size();) {
      looks.step();
      const uint32_t width = next_char(word, at).bytes;
      const double score = nodes[at].score;
      bool single = false;
      const auto reach = [&](size_t end, int32_t id, double token_score) {
        Node& node = nodes[end];
        if (node.bytes != 0 && score + token_score <= node.score) return;
        node = {score + token_score, id, static_cast<uint32_t>(end - at)};
      };
      finder_.visit_at(word, at, [&](size_t end, int32_t id) {
        reach(end, id, scores_[static_cast<size_t>(id)]);
        single = single || end == at + width;
      });
      if (!single) reach(at + width, options_.unknown, unknown_score_);
      at += width;
    }
    append_path(word, nodes, tokens);
    if (nodes.capacity() > kKeptNodes) std::vector<Node>().swap(nodes);
  }

  // Walks back from the end; tokens are appended last first and turned around.
  void append_path(std::string_view word, const std::vector<Node>& nodes,
                   std::vector<int32_t>& tokens) const {
    for (size_t end = word.size(); end > 0;) {
      const Node& node = nodes[end];
      size_t begin = end - node.bytes;
      if (node.id != options_.unknown) {
        tokens.push_back(node.id);
      } else {
        while (begin > 0 && nodes[begin].id == options_.unknown) begin -= nodes[begin].bytes;
        const size_t before = tokens.size();
        append_unknown(word.substr(begin, end - begin), tokens);
        std::reverse(tokens.begin() + static_cast<ptrdiff_t>(before), tokens.end());
      }
      end = begin;
    }
    std::reverse(tokens.begin(), tokens.end());
  }

  void append_unknown(std::string_view text, std::vector<int32_t>& tokens) const {
    const int32_t known = vocabulary_.find(text);
    if (known != kNoToken) {
      tokens.push_back(known);
    } else if (!fall_back_to_bytes(text, bytes_, tokens)) {
      if (options_.unknown == kNoToken)
        fail(ErrorCode::kUnsupported, "{}: the text has characters without a token, and there is no unk_id",
             where_);
      tokens.push_back(options_.unknown);
    }
  }

  static constexpr size_t kKeptNodes = size_t{1} << 16;

  TextFinder finder_;
  std::vector<double> scores_;  // by id
  UnigramOptions options_;
  std::string where_;
  std::vector<int32_t> bytes_;
  double unknown_score_ = 0;
};

}  // namespace

std::unique_ptr<const TokenModel> make_unigram(const JsonAt& json) {
  const JsonAt vocab = json["vocab"];
  if (!vocab.present() || !vocab.raw().is_array() || vocab.raw().empty()) vocab.wrong("an array of tokens");
  const Json& entries = vocab.raw();
  if (entries.size() > size_t{kMaxTokenId} + 1)
    vocab.malformed(fmt::format("{} tokens, at most {}", entries.size(), kMaxTokenId + 1));
  std::vector<std::string> texts;
  std::vector<double> scores;
  TextFinder finder;
  texts.reserve(entries.size());
  scores.reserve(entries.size());
  for (size_t id = 0; id < entries.size(); ++id) {
    const Json& entry = entries[id];
    const bool fits = entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_number() &&
                      std::isfinite(entry[1].get<double>());
    if (!fits) vocab.element(id).wrong("a token and its score");
    const std::string& text = texts.emplace_back(entry[0].text());
    scores.push_back(entry[1].get<double>());
    if (text.size() > kMaxTrieTokenBytes) vocab.element(id).malformed(too_long(text.size()));
    if (!text.empty()) finder.add(text, static_cast<int32_t>(id));
  }
  UnigramOptions options;
  options.unknown =
      static_cast<int32_t>(json["unk_id"].integer_or(0, static_cast<int64_t>(texts.size()) - 1, kNoToken));
  options.byte_fallback = json["byte_fallback"].flag_or(false);
  return std::make_unique<Unigram>(Vocabulary(std::move(texts)), std::move(finder), std::move(scores),
                                   options, json.where());
}

}  // namespace nfloat
