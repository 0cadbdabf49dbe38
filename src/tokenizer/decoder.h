// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_DECODER_H_
#define NFLOAT_TOKENIZER_DECODER_H_

#include <functional>
#include <string>
#include <vector>

#include "tokenizer/json_at.h"

namespace nfloat {

// Tokens on their way back to text.
struct DecodedPiece {
  std::string text;    // bytes: a character may be spread over pieces
  bool added = false;  // an added token: its text is what it says
};

struct Decoding {
  std::vector<DecodedPiece> pieces;
  bool at_start = true;     // the first piece begins the text
  bool at_end = true;       // the last piece ends it
  bool fused = false;       // the pieces were joined to one
  bool whole_bytes = true;  // a run of byte tokens that is no UTF-8 becomes U+FFFD for each byte
};

// Turns the pieces "<0x00>" to "<0xFF>" into their bytes.
void decode_byte_tokens(Decoding& decoding);

// The "decoder" of a tokenizer.json. Every step works piece by piece but for the first and the last piece of
// a text, so that a text can be decoded token by token.
class Decoder {
 public:
  Decoder() = default;  // joins tokens with spaces, as the format says for a file without a decoder
  explicit Decoder(const JsonAt& json);

  // The bytes of the text.
  std::string run(Decoding decoding) const;

 private:
  using Step = std::function<void(Decoding&)>;
  void add(const JsonAt& json);

  std::vector<Step> steps_;
  bool joins_with_spaces_ = true;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_DECODER_H_
