// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TEXT_H_
#define NFLOAT_TEXT_H_

#include <string>
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// The text with all that could move a terminal's cursor or turn its writing around as \n, \t, \xHH or \u{H}:
// control characters, marks of direction, bytes that are not UTF-8. Other characters stay.
NFLOAT_API std::string printable(std::string_view text);

}  // namespace nfloat

#endif  // NFLOAT_TEXT_H_
