// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_WORD_CACHE_H_
#define NFLOAT_TOKENIZER_WORD_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace nfloat {

// The words met in one text and where their tokens stand in its output. Words are borrowed: the text outlives
// the cache. Bounded: when it is full, new words are not kept.
class WordCache {
 public:
  struct Entry {
    std::string_view word;
    size_t begin = 0;
    uint32_t count = 0;
    bool known() const noexcept { return begin != kUnknown; }
    void remember(size_t at, size_t tokens) noexcept {
      begin = at;
      count = static_cast<uint32_t>(tokens);
    }
    static constexpr size_t kUnknown = SIZE_MAX;
  };

  // The word's entry, made when it is new; null for words that are not kept. Valid until the next call.
  Entry* find(std::string_view word) {
    if (word.size() > kMaxWordBytes || word.empty()) return nullptr;
    if (2 * (count_ + 1) > slots_.size() && slots_.size() < kMaxSlots) grow();
    const size_t mask = slots_.size() - 1;
    size_t slot = std::hash<std::string_view>{}(word)&mask;
    for (; !slots_[slot].word.empty(); slot = (slot + 1) & mask)
      if (slots_[slot].word == word) return &slots_[slot];
    if (2 * (count_ + 1) > slots_.size()) return nullptr;
    ++count_;
    slots_[slot] = {word, Entry::kUnknown, 0};
    return &slots_[slot];
  }

 private:
  static constexpr size_t kMaxWordBytes = 128;
  static constexpr size_t kMaxSlots = size_t{1} << 20;

  void grow() {
    std::vector<Entry> old = std::move(slots_);
    slots_.assign(old.empty() ? 64 : 4 * old.size(), {});
    const size_t mask = slots_.size() - 1;
    for (const Entry& entry : old) {
      if (entry.word.empty()) continue;
      size_t slot = std::hash<std::string_view>{}(entry.word) & mask;
      while (!slots_[slot].word.empty()) slot = (slot + 1) & mask;
      slots_[slot] = entry;
    }
  }

  std::vector<Entry> slots_;
  size_t count_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_WORD_CACHE_H_
