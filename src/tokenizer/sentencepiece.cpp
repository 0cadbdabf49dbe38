// SPDX-License-Identifier: Apache-2.0
#include <sentencepiece_processor.h>

#include <algorithm>
#include <unordered_map>

#include "base/fail.h"
#include "base/interruption.h"
#include "llama_cpp/vocabulary.h"
#include "tokenizer/sentencepiece_file.h"
#include "tokenizer/text_finder.h"
#include "tokenizer/tokenizer_state.h"
#include "tokenizer/word_cache.h"

// Exported by the library, declared in none of its installed headers: without it, loading a broken file
// prints.
namespace sentencepiece::logging {
void SetMinLogLevel(int level);
}

namespace nfloat {
namespace {

constexpr int kOnlyFatal = 3;

// A tokenizer.model: the sentencepiece library cuts the text; BOS, special tokens inside the text and
// decoding are as Hugging Face's Llama tokenizer does them.
class SentencePiece final : public Tokenizer::State {
 public:
  SentencePiece(std::string_view model, const std::string& source) : source_(source) {
    const SentencePieceFile file = read_sentencepiece_file(model, source);
    sentencepiece::logging::SetMinLogLevel(kOnlyFatal);
    try {
      const auto status = processor_.LoadFromSerializedProto(model);
      if (!status.ok())
        fail(ErrorCode::kMalformedFile, "{}: the sentencepiece library refuses it: {}", source,
             status.error_message());
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // its trie builder throws
      fail(ErrorCode::kMalformedFile, "{}: the sentencepiece library refuses it: {}", source, error.what());
    }
    vocab_size = static_cast<int32_t>(file.pieces.size());
    add_dummy_prefix_ = file.add_dummy_prefix;
    words_are_independent_ = file.words_are_independent;
    texts_.reserve(file.pieces.size());
    types_.reserve(file.pieces.size());
    for (size_t id = 0; id < file.pieces.size(); ++id) {
      const SentencePieceFile::Piece& piece = file.pieces[id];
      texts_.emplace_back(piece.text);
      types_.push_back(piece.type);
      if (is_special(static_cast<int32_t>(id))) finder_.add(piece.text, static_cast<int32_t>(id));
    }
    const auto control = [&](int32_t id) {
      const bool found =
          id >= 0 && id < vocab_size && types_[static_cast<size_t>(id)] == SentencePieceFile::kControl;
      return found ? std::optional(id) : std::nullopt;
    };
    bos = control(file.bos);
    eos = control(file.eos);
    add_bos = true;
  }

  // Pieces of the model keep their ids and types.
  void add_token(int32_t id, const std::string& text, bool special) override {
    constexpr int32_t kMaxGap = 1 << 16;
    const auto at = static_cast<size_t>(id);
    if (text.empty() || find(text) != kNoToken || (id < vocab_size && !texts_[at].empty())) return;
    if (id > vocab_size + kMaxGap)
      fail(ErrorCode::kMalformedFile, "{}: the added token \"{}\" has the id {}, the model has {} pieces",
           source_, text.substr(0, 60), id, vocab_size);
    if (id >= vocab_size) {
      vocab_size = id + 1;
      texts_.resize(at + 1);
      types_.resize(at + 1, SentencePieceFile::kUnused);
    }
    texts_[at] = text;
    types_[at] = special ? SentencePieceFile::kControl : SentencePieceFile::kUserDefined;
    finder_.add(text, id);
    added_[text] = id;
  }

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    if (options.add_special_tokens && add_bos && bos) ids.push_back(*bos);
    size_t done = 0;
    Looks looks;
    for (size_t at = 0; at < text.size() && options.parse_special_tokens;) {
      looks.step();
      size_t end = at;
      const int32_t id = finder_.match(text, at, &end);
      if (id < 0) {
        ++at;
        continue;
      }
      encode_plain(text.substr(done, at - done), ids);
      ids.push_back(id);
      done = at = end;
    }
    encode_plain(text.substr(done), ids);
    if (options.add_special_tokens && add_eos && eos) ids.push_back(*eos);
    return ids;
  }

  std::string decode_bytes(Decoding decoding) const override {
    decode_byte_tokens(decoding);
    std::string bytes;
    for (size_t i = 0; i < decoding.pieces.size(); ++i) {
      std::string_view text = decoding.pieces[i].text;
      if (i == 0 && decoding.at_start && add_dummy_prefix_ && text.starts_with(kVisibleSpace))
        text.remove_prefix(kVisibleSpace.size());
      size_t done = 0;
      for (size_t at = 0; (at = text.find(kVisibleSpace, done)) != std::string_view::npos;
           done = at + kVisibleSpace.size()) {
        bytes += text.substr(done, at - done);
        bytes += ' ';
      }
      bytes += text.substr(done);
    }
    return bytes;
  }

  std::string_view token_text(int32_t id) const override {
    return id >= 0 && id < vocab_size ? std::string_view(texts_[static_cast<size_t>(id)])
                                      : std::string_view();
  }
  bool is_added(int32_t) const override { return false; }
  bool is_special(int32_t id) const override {
    if (id < 0 || id >= vocab_size) return false;
    const auto type = types_[static_cast<size_t>(id)];
    return type == SentencePieceFile::kControl || type == SentencePieceFile::kUnknown;
  }
  int32_t find(std::string_view text) const override {
    if (const auto found = added_.find(std::string(text)); found != added_.end()) return found->second;
    const int32_t id = processor_.PieceToId(text);
    return token_text(id) == text ? id : kNoToken;
  }

 private:
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
    if (!words_are_independent_) return encode_part(text, ids);
    WordCache cache;
    Looks looks;
    while (!text.empty()) {
      looks.step();
      // A word with the spaces before it. The library puts a space before every text: the word's first is
      // left out.
      const size_t end = word_end(text);
      const std::string_view word = text.substr(0, end);
      text.remove_prefix(end == text.size() ? end : end + 1);
      WordCache::Entry* const entry = cache.find(word);
      const size_t begin = ids.size();
      if (entry == nullptr || !entry->known()) {
        encode_part(word, ids);
        if (entry != nullptr) entry->remember(begin, ids.size() - begin);
        continue;
      }
      ids.resize(begin + entry->count);
      std::copy_n(ids.begin() + static_cast<ptrdiff_t>(entry->begin), entry->count,
                  ids.begin() + static_cast<ptrdiff_t>(begin));
    }
  }

  // Where a space follows a character that is none, visible or not; a space that ends the text belongs to the
  // word before it, for the library makes nothing of an empty text.
  static size_t word_end(std::string_view text) noexcept {
    size_t at = std::min(text.find_first_not_of(' '), text.size());
    do {
      at = std::min(text.find(' ', at + 1), text.size());
    } while (at < text.size() && (text[at - 1] == ' ' || text.substr(0, at).ends_with(kVisibleSpace)));
    return at + 1 >= text.size() ? text.size() : at;
  }

  void encode_part(std::string_view text, std::vector<int32_t>& ids) const {
    if (text.empty()) return;
    std::vector<int> cut;
    const auto status = processor_.Encode(text, &cut);
    if (!status.ok())
      fail(ErrorCode::kUnsupported, "{}: the sentencepiece library cannot encode the text: {}", source_,
           status.error_message());
    ids.insert(ids.end(), cut.begin(), cut.end());
  }

  std::string source_;
  sentencepiece::SentencePieceProcessor processor_;
  std::vector<std::string> texts_;
  std::vector<SentencePieceFile::Type> types_;
  std::unordered_map<std::string, int32_t> added_;
  TextFinder finder_;
  bool add_dummy_prefix_ = true;
  bool words_are_independent_ = false;
};

}  // namespace

std::shared_ptr<Tokenizer::State> load_sentencepiece(std::string_view model, const std::string& source) {
  return std::make_shared<SentencePiece>(model, source);
}

}  // namespace nfloat
