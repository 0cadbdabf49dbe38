// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/sentencepiece_file.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/fail.h"
#include "base/other_content.h"
#include "nfloat/text.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/utf8.h"
#include "tokenizer/vocabulary.h"

namespace nfloat {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr size_t kMaxPieceBytes = 1024;

// One field of a protocol buffer message.
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;     // varint and fixed types
  std::string_view text;  // length-delimited type
  bool is_text = false;
};

// Reads a message field by field.
class Message {
 public:
  Message(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  bool next(Field* field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t tag = varint();
    *field = {};
    field->number = tag >> 3;
    switch (tag & 7) {
      case 0:
        field->value = varint();
        return true;
      case 1:
        field->value = fixed(8);
        return true;
      case 2: {
        const uint64_t length = varint();
        if (length > bytes_.size() - at_) broken();
        field->text = bytes_.substr(at_, length);
        field->is_text = true;
        at_ += length;
        return true;
      }
      case 5:
        field->value = fixed(4);
        return true;
      default:
        broken();
    }
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) broken();
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80) == 0) return value;
    }
    broken();
  }
  uint64_t fixed(size_t length) {
    if (length > bytes_.size() - at_) broken();
    uint64_t value = 0;
    for (size_t i = 0; i < length; ++i) value |= uint64_t{static_cast<uint8_t>(bytes_[at_++])} << (8 * i);
    return value;
  }
  [[noreturn]] void broken() const {
    fail(ErrorCode::kMalformedFile, "{}: the protocol buffer message is broken at byte {}", where_, at_);
  }

  std::string_view bytes_;
  const std::string& where_;
  size_t at_ = 0;
};

SentencePieceFile::Piece read_piece(std::string_view bytes, const std::string& where) {
  SentencePieceFile::Piece piece;
  Field field;
  for (Message message(bytes, where); message.next(&field);) {
    if (field.number == 1 && field.is_text) {
      piece.text = field.text;
    } else if (field.number == 2) {
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
      if (!std::isfinite(piece.score)) fail(ErrorCode::kMalformedFile, "{}: the score is not finite", where);
    } else if (field.number == 3) {
      if (field.value < 1 || field.value > 6)
        fail(ErrorCode::kMalformedFile, "{}: the type is {}, expected 1 to 6", where, field.value);
      piece.type = static_cast<SentencePieceFile::Type>(field.value);
    }
  }
  if (piece.text.empty() || piece.text.size() > kMaxPieceBytes || !is_valid_utf8(piece.text) ||
      piece.text.find('\0') != std::string_view::npos)
    fail(ErrorCode::kMalformedFile, "{}: the text has {} bytes, expected 1 to {} of UTF-8 without zeros",
         where, piece.text.size(), kMaxPieceBytes);
  return piece;
}

void read_trainer(std::string_view bytes, const std::string& source, SentencePieceFile& file) {
  constexpr uint64_t kUnigram = 1, kBpe = 2;
  const std::string where = source + ": trainer_spec";
  Field field;
  for (Message message(bytes, where); message.next(&field);) {
    if (field.number == 3 && field.value != kUnigram && field.value != kBpe)
      fail(ErrorCode::kUnsupported, "{}: model_type is {}, only unigram (1) and bpe (2) are supported", where,
           field.value);
    if (field.number == 3) file.is_bpe = field.value == kBpe;
    if (field.number == 24 && field.value != 0) file.words_are_independent = false;  // spaces end words
    if (field.number == 40) file.unknown = static_cast<int32_t>(field.value);
    if (field.number == 41) file.bos = static_cast<int32_t>(field.value);
    if (field.number == 42) file.eos = static_cast<int32_t>(field.value);
  }
  file.words_are_independent = file.words_are_independent && file.is_bpe;
}

void read_normalizer(std::string_view bytes, const std::string& where, SentencePieceFile& file) {
  bool removes_spaces = true, escapes_spaces = true;
  Field field;
  for (Message message(bytes, where); message.next(&field);) {
    if (field.number == 4) removes_spaces = field.value != 0;
    if (field.number == 5) escapes_spaces = field.value != 0;
    if (field.number == 2 && !field.text.empty()) file.words_are_independent = false;
    if (field.number == 3) file.add_dummy_prefix = field.value != 0;
    if (field.number == 2 && !field.text.empty() && !is_sound_charsmap(field.text))
      fail(ErrorCode::kMalformedFile, "{}: precompiled_charsmap of {} bytes leads outside itself", where,
           field.text.size());
  }
  if (removes_spaces || !escapes_spaces || !file.add_dummy_prefix) file.words_are_independent = false;
}

// Whether a visible space stands behind any other character.
bool goes_over_a_space(std::string_view text) noexcept {
  bool other = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = next_char(text, at);
    const bool space = next.value == 0x2581 || next.value == 0x20;
    if (space && other) return true;
    other = other || !space;
    at += next.bytes;
  }
  return false;
}

}  // namespace

SentencePieceFile read_sentencepiece_file(std::string_view bytes, const std::string& source) {
  if (const std::string_view other = other_content(bytes); !other.empty())
    fail(ErrorCode::kMalformedFile, "{}: {}; download the file again", source, other);
  if (bytes.starts_with("GGUF"))
    fail(ErrorCode::kMalformedFile, "{}: a GGUF file: let its name end in .gguf", source);
  if (looks_like_text(bytes.substr(0, 64)))
    fail(ErrorCode::kMalformedFile,
         "{}: a text that begins with '{}', no tokenizer: a SentencePiece model, or a tokenizer.json", source,
         printable(bytes.substr(0, 16)));
  if (bytes.empty() || bytes.size() > kMaxFileBytes)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, expected 1 to {}", source, bytes.size(), kMaxFileBytes);
  SentencePieceFile file;
  bool normalizer_seen = false;
  Field field;
  for (Message message(bytes, source); message.next(&field);) {
    if (!field.is_text) continue;
    if (field.number == 1) {
      if (file.pieces.size() > static_cast<size_t>(kMaxTokenId))
        fail(ErrorCode::kMalformedFile, "{}: more than {} pieces", source, kMaxTokenId + 1);
      file.pieces.push_back(read_piece(field.text, fmt::format("{}: piece {}", source, file.pieces.size())));
    } else if (field.number == 2) {
      read_trainer(field.text, source, file);
    } else if (field.number == 3) {
      read_normalizer(field.text, source + ": normalizer_spec", file);
      normalizer_seen = true;
    } else if (field.number == 5) {
      SentencePieceFile ignored;
      read_normalizer(field.text, source + ": denormalizer_spec", ignored);
    }
  }
  file.words_are_independent = file.words_are_independent && normalizer_seen &&
                               std::none_of(file.pieces.begin(), file.pieces.end(),
                                            [](const auto& piece) { return goes_over_a_space(piece.text); });
  if (file.pieces.empty()) fail(ErrorCode::kMalformedFile, "{}: there are no pieces", source);
  return file;
}

}  // namespace nfloat
