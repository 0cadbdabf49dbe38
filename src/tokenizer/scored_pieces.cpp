// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cctype>
#include <queue>
#include <unordered_map>

#include "base/fail.h"
#include "base/interruption.h"
#include "llama_cpp/tokenizer.h"
#include "llama_cpp/vocabulary.h"
#include "tokenizer/text_finder.h"
#include "tokenizer/tokenizer_state.h"
#include "tokenizer/utf8.h"
#include "tokenizer/word_cache.h"

namespace nfloat {
namespace {

// A text with every space as kVisibleSpace.
void append_escaped(std::string_view text, std::string& out) {
  for (const char c : text) {
    if (c == ' ')
      out += kVisibleSpace;
    else
      out += c;
  }
}

// SentencePiece's vocabulary as GGUF files hold it, cut as llama.cpp does: tokens of their own (control,
// unknown, user-defined) are found in the text first, the longest before all others; what is between them,
// each part with a space in front where the file says so, is joined from characters, the neighbours first
// whose piece has the best score. Nothing of the sentencepiece library's rules binds these vocabularies.
class ScoredPieces final : public Tokenizer::State {
 public:
  ScoredPieces(GgufPieces pieces, std::string source)
      : pieces_(std::move(pieces)), source_(std::move(source)) {
    if (pieces_.texts.size() > size_t{kMaxTokenId})
      fail(ErrorCode::kMalformedFile, "{}: {} tokens, at most {}", source_, pieces_.texts.size(),
           kMaxTokenId);
    vocab_size = static_cast<int32_t>(pieces_.texts.size());
    ids_.reserve(pieces_.texts.size());
    for (int32_t id = 0; id < vocab_size; ++id) {
      const std::string& text = pieces_.texts[index(id)];
      if (text.empty()) continue;
      if (text.size() > kMaxPieceBytes)
        fail(ErrorCode::kMalformedFile, "{}: token {} has {} bytes, at most {}", source_, id, text.size(),
             kMaxPieceBytes);
      ids_.emplace(text, id);
      if (stands_alone(id)) finder_.add(text, ids_.at(text));
      for (size_t at = 0; (at = text.find(kVisibleSpace, at + 1)) != std::string::npos;)
        goes_on_[static_cast<uint8_t>(text[at - 1])] = true;
    }
    const auto known = [&](int64_t id) {
      return id >= 0 && id < vocab_size ? std::optional(static_cast<int32_t>(id)) : std::nullopt;
    };
    bos = known(pieces_.bos);
    eos = known(pieces_.eos);
  }

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    if (options.add_special_tokens && add_bos && bos) ids.push_back(*bos);
    size_t done = 0;
    for (const Found& found : find_tokens(text, options.parse_special_tokens)) {
      encode_part(text.substr(done, found.begin - done), options.parse_special_tokens, ids);
      ids.push_back(found.id);
      done = found.end;
      while (trims_behind(found.id) && done < text.size() && std::isspace(static_cast<uint8_t>(text[done])))
        ++done;
    }
    encode_part(text.substr(done), options.parse_special_tokens, ids);
    if (options.add_special_tokens && add_eos && eos) ids.push_back(*eos);
    return ids;
  }

  std::string decode_bytes(Decoding decoding) const override {
    decode_byte_tokens(decoding);
    std::string bytes;
    for (size_t i = 0; i < decoding.pieces.size(); ++i) {
      std::string_view text = decoding.pieces[i].text;
      if (i == 0 && decoding.at_start && pieces_.add_space_prefix && text.starts_with(kVisibleSpace))
        text.remove_prefix(kVisibleSpace.size());
      for (size_t at = 0; (at = text.find(kVisibleSpace)) != std::string_view::npos;) {
        bytes += text.substr(0, at);
        bytes += ' ';
        text.remove_prefix(at + kVisibleSpace.size());
      }
      bytes += text;
    }
    return bytes;
  }

  std::string_view token_text(int32_t id) const override {
    return id >= 0 && id < vocab_size ? std::string_view(pieces_.texts[index(id)]) : std::string_view();
  }
  bool is_added(int32_t) const override { return false; }
  bool is_special(int32_t id) const override {
    if (id < 0 || id >= vocab_size) return false;
    const GgufTokenType type = pieces_.types[index(id)];
    return type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
  }
  int32_t find(std::string_view text) const override {
    const auto found = ids_.find(text);
    return found == ids_.end() ? kNoToken : found->second;
  }

 private:
  static constexpr size_t kMaxPieceBytes = 4096;

  struct Found {
    size_t begin, end;
    int32_t id;
  };
  // A part of the text that is joined with its neighbours; empty: joined into the one before it.
  struct Symbol {
    size_t begin, bytes;
    int32_t previous, next;
  };
  struct Pair {
    float score;
    int32_t left, right;
    size_t bytes;
    bool operator<(const Pair& other) const noexcept {
      return score != other.score ? score < other.score : left > other.left;
    }
  };

  static size_t index(int32_t id) noexcept { return static_cast<size_t>(id); }
  bool stands_alone(int32_t id) const noexcept {
    return is_special(id) || pieces_.types[index(id)] == GgufTokenType::kUserDefined;
  }
  // Phi-3's tokens take the white space behind them along, but for these.
  bool trims_behind(int32_t id) const {
    if (!pieces_.trims_behind_tokens) return false;
    const std::string& text = pieces_.texts[index(id)];
    return text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
  }

  // Tokens of their own in the order of the text. Where two overlap the longer one counts, of equal ones the
  // one with the smaller id, then the first.
  std::vector<Found> find_tokens(std::string_view text, bool special) const {
    std::vector<Found> all, kept;
    Looks looks;
    for (size_t at = 0; at < text.size() && !finder_.empty(); ++at) {
      looks.step();
      finder_.visit_at(text, at, [&](size_t end, int32_t id) {
        if (special || !is_special(id)) all.push_back({at, end, id});
      });
    }
    std::sort(all.begin(), all.end(), [](const Found& a, const Found& b) {
      const size_t a_bytes = a.end - a.begin, b_bytes = b.end - b.begin;
      if (a_bytes != b_bytes) return a_bytes > b_bytes;
      return a.id != b.id ? a.id < b.id : a.begin < b.begin;
    });
    std::vector<bool> taken(all.empty() ? 0 : text.size());
    for (const Found& found : all) {
      // What is taken is longer than this one, or as long: it covers one of the two ends.
      if (taken[found.begin] || taken[found.end - 1]) continue;
      std::fill(taken.begin() + static_cast<ptrdiff_t>(found.begin),
                taken.begin() + static_cast<ptrdiff_t>(found.end), true);
      kept.push_back(found);
    }
    std::sort(kept.begin(), kept.end(), [](const Found& a, const Found& b) { return a.begin < b.begin; });
    return kept;
  }

  void encode_part(std::string_view part, bool special, std::vector<int32_t>& ids) const {
    if (part.empty()) return;
    std::string text;
    if (pieces_.add_space_prefix) text += kVisibleSpace;
    append_escaped(part, text);
    WordCache cache;
    Looks looks;
    for (std::string_view rest = text; !rest.empty();) {
      looks.step();
      const std::string_view word = rest.substr(0, word_end(rest));
      rest.remove_prefix(word.size());
      WordCache::Entry* const entry = cache.find(word);
      const size_t begin = ids.size();
      if (entry == nullptr || !entry->known()) {
        join(word, special, ids);
        if (entry != nullptr) entry->remember(begin, ids.size() - begin);
        continue;
      }
      ids.resize(begin + entry->count);
      std::copy_n(ids.begin() + static_cast<ptrdiff_t>(entry->begin), entry->count,
                  ids.begin() + static_cast<ptrdiff_t>(begin));
    }
  }

  // Where the first space is that no piece joins with what is before it.
  size_t word_end(std::string_view text) const noexcept {
    size_t at = text.find(kVisibleSpace, 1);
    while (at != std::string_view::npos && goes_on_[static_cast<uint8_t>(text[at - 1])])
      at = text.find(kVisibleSpace, at + 1);
    return std::min(at, text.size());
  }

  // The id of a piece that characters may be joined to: special ones only where they may be spelled.
  int32_t joined(std::string_view text, bool special) const {
    const int32_t id = find(text);
    return id != kNoToken && (special || !is_special(id)) ? id : kNoToken;
  }

  void join(std::string_view text, bool special, std::vector<int32_t>& ids) const {
    std::vector<Symbol> symbols;
    for (size_t at = 0; at < text.size();) {
      const uint32_t bytes = next_char(text, at).bytes;
      const auto count = static_cast<int32_t>(symbols.size());
      symbols.push_back({at, bytes, count - 1, at + bytes == text.size() ? -1 : count + 1});
      at += bytes;
    }
    std::priority_queue<Pair> pairs;
    const auto offer = [&](int32_t left, int32_t right) {
      if (left < 0 || right < 0) return;
      const size_t bytes = symbols[index(left)].bytes + symbols[index(right)].bytes;
      const int32_t id = joined(text.substr(symbols[index(left)].begin, bytes), special);
      if (id != kNoToken) pairs.push({pieces_.scores[index(id)], left, right, bytes});
    };
    for (int32_t i = 1; i < static_cast<int32_t>(symbols.size()); ++i) offer(i - 1, i);
    Looks looks;
    while (!pairs.empty()) {
      looks.step();
      const Pair pair = pairs.top();
      pairs.pop();
      Symbol &left = symbols[index(pair.left)], &right = symbols[index(pair.right)];
      // One of the two is part of another pair by now.
      if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != pair.bytes) continue;
      left.bytes = pair.bytes;
      right.bytes = 0;
      left.next = right.next;
      if (right.next >= 0) symbols[index(right.next)].previous = pair.left;
      offer(left.previous, pair.left);
      offer(pair.left, left.next);
    }
    for (int32_t i = 0; i >= 0; i = symbols[index(i)].next)
      append(text.substr(symbols[index(i)].begin, symbols[index(i)].bytes), special, ids);
  }

  // A symbol's token, else its bytes', else the unknown token.
  void append(std::string_view text, bool special, std::vector<int32_t>& ids) const {
    const int32_t whole = joined(text, special);
    if (whole != kNoToken) return ids.push_back(whole);
    for (const char c : text) {
      int32_t id = find(fmt::format("<0x{:02X}>", static_cast<uint8_t>(c)));
      if (id == kNoToken) id = find(std::string_view(&c, 1));
      if (id == kNoToken && pieces_.unknown >= 0 && pieces_.unknown < vocab_size)
        id = static_cast<int32_t>(pieces_.unknown);
      if (id == kNoToken)
        fail(ErrorCode::kUnsupported,
             "{}: the text has a character without a token, and the file has neither a token for its byte "
             "0x{:02X} nor one for the unknown",
             source_, static_cast<uint8_t>(c));
      ids.push_back(id);
    }
  }

  GgufPieces pieces_;
  std::string source_;
  std::unordered_map<std::string_view, int32_t> ids_;  // borrows pieces_; of equal texts the first
  TextFinder finder_;
  std::array<bool, 256> goes_on_{};  // bytes with U+2581 behind them in some piece
};

}  // namespace

std::shared_ptr<Tokenizer::State> make_scored_pieces(GgufPieces pieces, const std::string& source) {
  return std::make_shared<ScoredPieces>(std::move(pieces), source);
}

}  // namespace nfloat
