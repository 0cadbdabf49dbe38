// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_NUMBERS_H_
#define NFLOAT_GRAMMAR_NUMBERS_H_

#include <cstdint>

#include "grammar/builder.h"

namespace nfloat::grammar {

inline constexpr int64_t kLargestInteger = 999'999'999'999'999;

// The integers from `low` to `high`, in decimal; both of at most 15 digits. Nothing matches when low > high.
Piece integers(Builder& builder, int64_t low, int64_t high);
// The decimal numbers from `low` to `high` with as many digits behind the point as make 15 in all, at most 6.
// An exclusive bound moves by one unit of the last digit.
Piece decimals(Builder& builder, double low, bool low_exclusive, double high, bool high_exclusive);
// Any number, with an exponent too.
Piece any_number(Builder& builder);

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_NUMBERS_H_
