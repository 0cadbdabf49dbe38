// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/charsmap.h"

#include <utf8proc.h>

#include <bit>
#include <cstring>

#include "base/interruption.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

static_assert(std::endian::native == std::endian::little, "the map's units are little-endian");

// Where the children of a unit are, relative to it.
size_t offset_of(uint32_t unit) noexcept {
  return size_t{unit >> 10} << ((unit & (1u << 9)) >> 6);
}
constexpr uint32_t kLeaf = 1u << 31;       // a leaf's other bits are its value
constexpr uint32_t kHasLeaf = 1u << 8;     // a text of the map ends here
constexpr uint32_t kLabel = kLeaf | 0xFF;  // the byte that leads here

}  // namespace

bool is_sound_charsmap(std::string_view blob) noexcept {
  uint32_t trie_bytes = 0;
  if (blob.size() <= sizeof trie_bytes) return false;
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  // A double array is built in blocks of 256 units of 4 bytes.
  constexpr size_t kBlockBytes = 1024;
  if (trie_bytes < kBlockBytes || trie_bytes % kBlockBytes != 0 ||
      trie_bytes >= blob.size() - sizeof trie_bytes)
    return false;
  const std::string_view texts = blob.substr(sizeof trie_bytes + trie_bytes);
  if (texts.back() != '\0') return false;
  const size_t units = trie_bytes / 4;
  for (size_t i = 0; i < units; ++i) {
    uint32_t unit = 0;
    std::memcpy(&unit, blob.data() + sizeof trie_bytes + 4 * i, sizeof unit);
    if ((unit & kLeaf) != 0) {
      if (i == 0 || (unit & ~kLeaf) >= texts.size())
        return false;  // where its replacement begins; the root is none
    } else if (((i ^ offset_of(unit)) | 0xFF) >= units) {
      return false;  // the block of its children
    }
  }
  return true;
}

CharsMap::CharsMap(std::string_view blob) {
  uint32_t trie_bytes = 0;
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  units_.resize(trie_bytes / sizeof units_[0]);
  std::memcpy(units_.data(), blob.data() + sizeof trie_bytes, trie_bytes);
  texts_ = blob.substr(sizeof trie_bytes + trie_bytes);
}

bool CharsMap::find(std::string_view text, std::string_view* replacement) const noexcept {
  size_t at = offset_of(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) return false;
    at ^= byte;
    const uint32_t unit = units_[at];
    if ((unit & kLabel) != byte) return false;
    at ^= offset_of(unit);
    if ((unit & kHasLeaf) == 0) continue;
    // A file may call anything a leaf: its value is used only where it was checked.
    const size_t begin = units_[at] & ~kLeaf;
    if ((units_[at] & kLeaf) == 0) return false;
    *replacement = std::string_view(texts_.data() + begin);
    return true;
  }
  return false;
}

void CharsMap::apply(std::string& text) const {
  constexpr size_t kMostBytesWhole = 5;
  std::string out;
  out.reserve(text.size());
  const std::string_view in = text;
  std::string_view replacement;
  Looks looks;
  for (size_t begin = 0; begin < in.size();) {
    looks.step();
    Utf8Char character = next_char(in, begin);
    size_t end = begin + character.bytes;
    utf8proc_int32_t state = 0;
    while (end < in.size()) {
      const Utf8Char next = next_char(in, end);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(character.value),
                                           static_cast<utf8proc_int32_t>(next.value), &state) != 0)
        break;
      character = next;
      end += next.bytes;
    }
    const std::string_view cluster = in.substr(begin, end - begin);
    begin = end;
    if (cluster.size() <= kMostBytesWhole && find(cluster, &replacement)) {
      out += replacement;
      continue;
    }
    for (size_t at = 0; at < cluster.size();) {
      const std::string_view part = cluster.substr(at, next_char(cluster, at).bytes);
      out += find(part, &replacement) ? replacement : part;
      at += part.size();
    }
  }
  text = std::move(out);
}

bool decode_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  while (text.ends_with('=')) text.remove_suffix(1);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (value < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>(bits >> count & 0xFF));
  }
  return true;
}

}  // namespace nfloat
