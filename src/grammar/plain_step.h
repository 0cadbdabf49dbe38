// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_PLAIN_STEP_H_
#define NFLOAT_GRAMMAR_PLAIN_STEP_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "grammar/net.h"

namespace nfloat::grammar {

// Plain is a character that stands for itself in a JSON string: whole in UTF-8, no control character, no
// quote, no backslash. Nearly all tokens of a vocabulary consist of such, so what texts of any of them do is
// worth knowing without following each.

// How many characters a text has, where all of them are plain; -1: one is not, or is not whole.
int32_t plain_length(std::string_view text) noexcept;

// Where one plain character leads from a state of a net.
struct PlainStep {
  enum class Kind : uint8_t {
    kNowhere,    // no plain character can follow
    kAlike,      // each leads to `targets`
    kDifferent,  // they do not all lead to the same states
  } kind;
  std::vector<int32_t> targets;  // in order
};
// `ends`: states that end a rule.
PlainStep plain_step(const Net& net, const std::vector<bool>& ends, int32_t state);

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_PLAIN_STEP_H_
