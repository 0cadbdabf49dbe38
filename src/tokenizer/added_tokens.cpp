// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "base/interruption.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxAllBytes = size_t{16} << 20;

// The start of the last character before `end`.
size_t previous_char(std::string_view text, size_t end) noexcept {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool touches_word(std::string_view text, size_t begin, size_t end) noexcept {
  if (begin > 0 && is_word(next_char(text, previous_char(text, begin)).value)) return true;
  return end < text.size() && is_word(next_char(text, end).value);
}

}  // namespace

AddedTokens::AddedTokens(const JsonAt& json, const Vocabulary& vocabulary, const Normalizer* normalizer) {
  if (!json.present()) return;
  size_t all_bytes = 0;
  for (const JsonAt& entry : json.elements()) {
    AddedToken token;
    token.text = entry["content"].text();
    token.id = static_cast<int32_t>(entry["id"].integer(0, kMaxTokenId));
    token.special = entry["special"].flag_or(false);
    token.single_word = entry["single_word"].flag_or(false);
    token.strip_left = entry["lstrip"].flag_or(false);
    token.strip_right = entry["rstrip"].flag_or(false);
    token.normalized = entry["normalized"].flag_or(!token.special);
    if (token.text.empty()) continue;
    all_bytes += token.text.size();
    if (token.text.size() > kMaxTokenBytes || all_bytes > kMaxAllBytes)
      entry.malformed(
          fmt::format("added tokens of more than {} bytes, or {} in all", kMaxTokenBytes, kMaxAllBytes));
    const int32_t known = vocabulary.find(token.text);
    if (known != kNoToken) token.id = known;
    std::string sought = token.text;
    if (token.normalized && normalizer != nullptr) normalizer->apply(sought);
    if (!sought.empty()) finders_[token.normalized].add(sought, static_cast<int32_t>(tokens_.size()));
    largest_id_ = std::max(largest_id_, token.id);
    by_id_[token.id] = tokens_.size();
    by_text_[token.text] = tokens_.size();
    tokens_.push_back(std::move(token));
  }
}

void AddedTokens::split(std::string_view text, bool normalized, bool special,
                        std::vector<TextPart>& parts) const {
  const TextFinder& finder = finders_[normalized];
  size_t done = 0;
  Looks looks;
  for (size_t at = 0; at < text.size() && !finder.empty();) {
    looks.step();
    size_t end = at;
    const int32_t found = finder.match(text, at, &end);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    size_t begin = at;
    at = end;
    if ((token.special && !special) || (token.single_word && touches_word(text, begin, end))) continue;
    while (token.strip_left && begin > done) {
      const size_t before = previous_char(text, begin);
      if (!is_white_space(next_char(text, before).value)) break;
      begin = before;
    }
    while (token.strip_right && end < text.size()) {
      const Utf8Char next = next_char(text, end);
      if (!is_white_space(next.value)) break;
      end += next.bytes;
    }
    begin = std::max(begin, done);
    if (begin > done) parts.push_back({done, begin, kNoToken});
    parts.push_back({begin, end, token.id});
    done = end;
    at = std::max(at, done);
  }
  if (done < text.size()) parts.push_back({done, text.size(), kNoToken});
}

const AddedToken* AddedTokens::find(int32_t id) const noexcept {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view text) const noexcept {
  const auto found = by_text_.find(std::string(text));
  return found == by_text_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace nfloat
