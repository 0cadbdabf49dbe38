// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_HARMONY_H_
#define NFLOAT_GENERATE_HARMONY_H_

#include <cstdint>
#include <optional>
#include <string>

#include "nfloat/tokenizer.h"

namespace nfloat {

// The format of gpt-oss's answers: <|channel|>NAME<|message|>TEXT, and on with <|end|><|start|>ROLE. The text
// of the channel "final" is the answer; the others are thoughts and calls.
class Harmony {
 public:
  // Nothing for a vocabulary without these tokens.
  static std::optional<Harmony> of(const Tokenizer& tokenizer) {
    const auto channel = tokenizer.token_id("<|channel|>"), message = tokenizer.token_id("<|message|>"),
               start = tokenizer.token_id("<|start|>"), end = tokenizer.token_id("<|end|>");
    if (!channel || !message || !start || !end) return std::nullopt;
    return Harmony(*channel, *message, *start, *end);
  }

  enum class Part : uint8_t { kMark, kHeader, kFinal, kOther };
  // What the next token of an answer is. A header is the name of a channel or a role.
  Part take(int32_t token) {
    if (token == channel_ || token == start_ || token == end_) {
      part_ = Part::kHeader;
      if (token == channel_) name_.clear();
      in_channel_ = token == channel_;
      return Part::kMark;
    }
    if (token == message_) {
      part_ = name_.starts_with("final") || name_.empty() ? Part::kFinal : Part::kOther;
      return Part::kMark;
    }
    return part_;
  }
  void name(const std::string& text) {
    if (in_channel_) name_ += text;
  }
  const std::string& channel() const noexcept { return name_; }
  // Ends one message, not the answer.
  bool goes_on(int32_t token) const noexcept { return token == end_ && part_ != Part::kFinal; }
  void begin() {
    part_ = Part::kFinal;
    name_.clear();
  }

 private:
  Harmony(int32_t channel, int32_t message, int32_t start, int32_t end)
      : channel_(channel), message_(message), start_(start), end_(end) {}
  int32_t channel_, message_, start_, end_;
  Part part_ = Part::kFinal;
  bool in_channel_ = false;
  std::string name_;
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_HARMONY_H_
