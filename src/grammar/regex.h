// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_REGEX_H_
#define NFLOAT_GRAMMAR_REGEX_H_

#include <string>
#include <string_view>

#include "grammar/builder.h"

namespace nfloat::grammar {

// A regular expression as JSON Schema's "pattern" has it (the common part of ECMAScript's). `whole`: it is
// the whole text; else it may stand anywhere, as ^ and $ at its ends say. `place` stands in messages. Throws
// kInvalidArgument and kUnsupported.
Piece regex(Builder& builder, std::string_view expression, Spelling spelling, bool whole,
            const std::string& place);

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_REGEX_H_
