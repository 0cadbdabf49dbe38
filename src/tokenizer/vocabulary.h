// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_VOCABULARY_H_
#define NFLOAT_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/json_at.h"

namespace nfloat {

inline constexpr int32_t kMaxTokenId = (1 << 22) - 1;
inline constexpr int32_t kNoToken = -1;

// The tokens of a model, both ways. Ids may have holes; a text may have two ids (the later one is found).
class Vocabulary {
 public:
  Vocabulary() = default;
  explicit Vocabulary(std::vector<std::string> texts);  // by id; empty texts are holes
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // {"token": id, ...}. Throws kMalformedFile for ids out of range or used twice.
  static Vocabulary from_object(const JsonAt& json);

  int32_t find(std::string_view text) const noexcept {
    const auto found = ids_.find(text);
    return found == ids_.end() ? kNoToken : found->second;
  }
  std::string_view text(int32_t id) const noexcept {
    return id >= 0 && id < size() ? std::string_view(texts_[static_cast<size_t>(id)]) : std::string_view();
  }
  int32_t size() const noexcept { return static_cast<int32_t>(texts_.size()); }

 private:
  std::vector<std::string> texts_;  // never resized: ids_ borrows from it
  std::unordered_map<std::string_view, int32_t> ids_;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_VOCABULARY_H_
