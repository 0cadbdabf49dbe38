// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/token_model.h"

#include <algorithm>

#include "base/interruption.h"
#include "tokenizer/word_cache.h"

namespace nfloat {

void TokenModel::encode(const Pieces& pieces, std::vector<int32_t>& ids) const {
  WordCache cache;
  std::vector<int32_t> tokens;
  Looks looks;
  for (const Match& range : pieces.ranges) {
    for (std::string_view rest = pieces.at(range); !rest.empty();) {
      looks.step();
      const std::string_view word = rest.substr(0, pieces.byte_level ? rest.size() : word_end(rest));
      rest.remove_prefix(word.size());
      WordCache::Entry* const entry = cache.find(word);
      if (entry == nullptr || !entry->known()) {
        tokens.clear();
        encode_word(word, pieces.byte_level, tokens);
        if (entry != nullptr) entry->remember(ids.size(), tokens.size());
        ids.insert(ids.end(), tokens.begin(), tokens.end());
        continue;
      }
      const size_t begin = ids.size();
      ids.resize(begin + entry->count);
      std::copy_n(ids.begin() + static_cast<ptrdiff_t>(entry->begin), entry->count,
                  ids.begin() + static_cast<ptrdiff_t>(begin));
    }
  }
}

int32_t token_named(const JsonAt& json, const Vocabulary& vocabulary) {
  if (!json.present()) return kNoToken;
  const int32_t id = vocabulary.find(json.text());
  if (id == kNoToken) json.wrong("a token of the vocabulary");
  return id;
}

std::vector<int32_t> byte_tokens(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(256);
  for (size_t byte = 0; byte < ids.size(); ++byte)
    ids[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte));
  return ids;
}

bool fall_back_to_bytes(std::string_view text, const std::vector<int32_t>& bytes,
                        std::vector<int32_t>& tokens) {
  if (bytes.empty()) return false;
  for (const char byte : text)
    if (bytes[static_cast<uint8_t>(byte)] == kNoToken) return false;
  for (const char byte : text) tokens.push_back(bytes[static_cast<uint8_t>(byte)]);
  return true;
}

std::unique_ptr<const TokenModel> make_token_model(const JsonAt& json) {
  // Files of before the "type" key tell by what else they have.
  const char* const untyped = json["merges"].present()                      ? "BPE"
                              : json["unk_id"].present()                    ? "Unigram"
                              : json["continuing_subword_prefix"].present() ? "WordPiece"
                                                                            : "";
  const std::string type = json["type"].text_or(untyped);
  if (type == "BPE") return make_bpe(json);
  if (type == "Unigram") return make_unigram(json);
  if (type == "WordPiece") return make_word_piece(json);
  if (type == "WordLevel") return make_word_level(json);
  json.unsupported("models of the kind \"" + type.substr(0, 60) + "\" are not supported");
}

}  // namespace nfloat
