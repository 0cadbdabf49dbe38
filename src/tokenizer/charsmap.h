// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_CHARSMAP_H_
#define NFLOAT_TOKENIZER_CHARSMAP_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nfloat {

// Whether a precompiled character map (size of the trie, trie, replacement texts) leads nowhere outside
// itself.
bool is_sound_charsmap(std::string_view blob) noexcept;

// SentencePiece's precompiled character map: a double array (Aoe 1989) from texts to what replaces them.
class CharsMap {
 public:
  explicit CharsMap(std::string_view blob);  // sound

  // Rewrites valid UTF-8 as the "Precompiled" normalizer does: short grapheme clusters whole where the map
  // has a beginning of them, all else character by character.
  void apply(std::string& text) const;

 private:
  // What replaces the shortest text of the map that begins `text`; false when none does.
  bool find(std::string_view text, std::string_view* replacement) const noexcept;

  std::vector<uint32_t> units_;
  std::string texts_;
};

// RFC 4648, padding optional; false, with `bytes` of no use, for any other character.
bool decode_base64(std::string_view text, std::string& bytes);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_CHARSMAP_H_
