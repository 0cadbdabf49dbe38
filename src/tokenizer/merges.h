// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_MERGES_H_
#define NFLOAT_TOKENIZER_MERGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nfloat {

// The merge rules of byte-pair encoding: which two neighbours become which token, the lowest rank first.
class Merges {
 public:
  struct Rule {
    uint32_t rank = kNone;
    int32_t merged = 0;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit Merges(size_t expected = 0);

  // A pair that comes again keeps the later rank, as the format's own library does.
  void add(int32_t left, int32_t right, Rule rule);
  Rule find(int32_t left, int32_t right) const noexcept {
    const uint64_t key = key_of(left, right);
    for (size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].rule;
      if (slots_[slot].key == kEmpty) return {};
    }
  }

  // Merges neighbours in place until no rule applies: always the lowest rank, the leftmost of equals.
  // n log n time for n tokens.
  void apply(std::vector<int32_t>& tokens) const;

 private:
  struct Slot {
    uint64_t key = kEmpty;
    Rule rule;
  };
  static constexpr uint64_t kEmpty = UINT64_MAX;

  static uint64_t key_of(int32_t left, int32_t right) noexcept {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const noexcept {
    return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 20) & mask_;
  }
  void apply_short(std::vector<int32_t>& tokens) const;
  void apply_long(std::vector<int32_t>& tokens) const;

  std::vector<Slot> slots_;  // open addressing, at most half full
  size_t mask_ = 0;
  size_t count_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_MERGES_H_
