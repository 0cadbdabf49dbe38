// SPDX-License-Identifier: Apache-2.0
// GCC 12 warns inside of the header and of its own string.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wrestrict"
#endif
#include <boost/multiprecision/cpp_int.hpp>

#include "base/fail.h"
#include "chat/builtins.h"

namespace nfloat::chat {
namespace {

using Whole = boost::multiprecision::cpp_int;

// As many as Python prints: 4300 decimal digits.
constexpr unsigned kMostBits = 14284;

Whole whole_of(const Value& value) {
  return value.is_big() ? Whole(value.str()) : Whole(value.integer);
}

unsigned bits_of(const Whole& value) {
  return value == 0 ? 0 : boost::multiprecision::msb(boost::multiprecision::abs(value)) + 1;
}

}  // namespace

Value whole_binary(const std::string& sign, const Value& a, const Value& b, Budget& budget) {
  budget.steps(1 + (a.is_big() ? a.str().size() : 0) + (b.is_big() ? b.str().size() : 0));
  const Whole x = whole_of(a), y = whole_of(b);
  Whole result;
  if (sign == "+") {
    result = x + y;
  } else if (sign == "-") {
    result = x - y;
  } else if (sign == "*") {
    result = x * y;
  } else if (sign == "**") {
    const unsigned bits = bits_of(x);
    if (bits > 1 && y * (bits - 1) > kMostBits) budget.refuse("a whole number of more than 4300 digits");
    if (bits > 1)
      result = boost::multiprecision::pow(x, static_cast<unsigned>(y));
    else
      result = y == 0 ? Whole(1) : x == -1 && y % 2 == 0 ? Whole(1) : x;
  } else {
    if (y == 0) budget.refuse("division by zero");
    Whole rest;
    boost::multiprecision::divide_qr(x, y, result, rest);
    // Python rounds down.
    const bool round = rest != 0 && (rest < 0) != (y < 0);
    if (round) result -= 1;
    if (sign == "%") result = round ? Whole(rest + y) : rest;
  }
  if (bits_of(result) > kMostBits) budget.refuse("a whole number of more than 4300 digits");
  return Value::whole(result.str());
}

}  // namespace nfloat::chat
