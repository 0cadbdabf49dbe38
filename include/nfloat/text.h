// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TEXT_H_
#define NFLOAT_TEXT_H_

#include <string>
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// The text with escapes (\n, \t, \xHH, \u{H}) for everything that could move the cursor of a terminal or
// change its direction of writing: control characters, bidirectional marks, bytes that are not UTF-8.
NFLOAT_API std::string printable(std::string_view text);

}  // namespace nfloat

#endif  // NFLOAT_TEXT_H_
