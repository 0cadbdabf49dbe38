// SPDX-License-Identifier: Apache-2.0
#include "grammar/numbers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>

namespace nfloat::grammar {
namespace {

// Texts of digits between two of equal length, with a point before the last `fraction` of them. Digits behind
// the point may be left out from the end where the value stays in the range.
class DigitRange {
 public:
  DigitRange(Builder& builder, std::string low, std::string high, size_t fraction)
      : builder_(builder), low_(std::move(low)), high_(std::move(high)), point_(low_.size() - fraction) {}

  Piece build() {
    end_ = builder_.state();
    return {at(0, true, true), end_};
  }

 private:
  bool zeros_from(size_t place) const {
    return std::all_of(low_.begin() + static_cast<std::ptrdiff_t>(place), low_.end(),
                       [](char c) { return c == '0'; });
  }
  // Before digit `place`; what came equals the beginnings of the bounds or not.
  int32_t at(size_t place, bool at_low, bool at_high) {
    const auto [found, added] = made_.try_emplace({place, at_low, at_high}, 0);
    if (!added) return found->second;
    const int32_t here = builder_.state();
    made_[{place, at_low, at_high}] = here;
    if (place >= point_ && (!at_low || zeros_from(place))) builder_.connect(here, end_);
    if (place == low_.size()) return here;
    int32_t from = here;
    if (place == point_) {
      from = builder_.state();
      builder_.connect(here, '.', '.', from);
    }
    const char first = at_low ? low_[place] : '0', last = at_high ? high_[place] : '9';
    for (char digit = first; digit <= last; ++digit)
      builder_.connect(from, static_cast<uint8_t>(digit), static_cast<uint8_t>(digit),
                       at(place + 1, at_low && digit == low_[place], at_high && digit == high_[place]));
    return here;
  }

  Builder& builder_;
  std::string low_, high_;
  size_t point_;
  int32_t end_ = 0;
  std::map<std::tuple<size_t, bool, bool>, int32_t> made_;
};

std::string digits(int64_t value, size_t length) {
  const std::string text = std::to_string(value);
  return std::string(length > text.size() ? length - text.size() : 0, '0') + text;
}

// From 0 on, in units of the last of `fraction` digits.
void add_magnitudes(Builder& builder, std::vector<Piece>& pieces, int64_t low, int64_t high, size_t fraction,
                    bool negative) {
  int64_t unit = 1;
  for (size_t i = 0; i < fraction; ++i) unit *= 10;
  int64_t begin = 0, end = 10 * unit - 1;  // numbers with one digit before the point
  for (size_t length = 1; begin <= high; ++length) {
    const int64_t first = std::max(low, begin), last = std::min(high, end);
    if (first <= last) {
      const Piece range =
          DigitRange(builder, digits(first, length + fraction), digits(last, length + fraction), fraction)
              .build();
      pieces.push_back(negative ? builder.sequence({builder.literal("-"), range}) : range);
    }
    if (end > INT64_MAX / 10 - 10) return;
    begin = end + 1;
    end = begin * 10 - 1;
  }
}

Piece range(Builder& builder, int64_t low, int64_t high, size_t fraction) {
  std::vector<Piece> pieces;
  if (low <= high) {
    if (high >= 0) add_magnitudes(builder, pieces, std::max<int64_t>(low, 0), high, fraction, false);
    if (low < 0) add_magnitudes(builder, pieces, std::max<int64_t>(-high, 1), -low, fraction, true);
  }
  return builder.either(pieces);
}

// x in units of 1/scale, rounded to the inside of the range.
int64_t in_units(double x, double scale, bool up) {
  const double scaled = x * scale, near = std::round(scaled);
  if (near / scale <= x && near / scale >= x) return static_cast<int64_t>(near);
  return static_cast<int64_t>(up ? std::ceil(scaled) : std::floor(scaled));
}

}  // namespace

Piece integers(Builder& builder, int64_t low, int64_t high) {
  return range(builder, std::max(low, -kLargestInteger), std::min(high, kLargestInteger), 0);
}

Piece decimals(Builder& builder, double low, bool low_exclusive, double high, bool high_exclusive) {
  const auto most = static_cast<double>(kLargestInteger);
  low = std::max(low, -most);
  high = std::min(high, most);
  const double largest = std::max({std::abs(low), std::abs(high), 1.0});
  const auto before = static_cast<int>(std::floor(std::log10(largest))) + 1;
  const auto fraction = static_cast<size_t>(std::clamp(15 - before, 0, 6));
  const double scale = std::pow(10.0, static_cast<double>(fraction));
  return range(builder, in_units(low, scale, true) + (low_exclusive ? 1 : 0),
               in_units(high, scale, false) - (high_exclusive ? 1 : 0), fraction);
}

Piece any_number(Builder& builder) {
  const auto some_digits = [&](int32_t least, int32_t most) {
    return builder.repeat(builder.bytes('0', '9'), least, most);
  };
  const Piece whole =
      builder.either({builder.literal("0"), builder.sequence({builder.bytes('1', '9'), some_digits(0, 14)})});
  const Piece sign = builder.either({builder.empty(), builder.literal("-")});
  const Piece fraction =
      builder.either({builder.empty(), builder.sequence({builder.literal("."), some_digits(1, 15)})});
  const Piece exponent = builder.either(
      {builder.empty(),
       builder.sequence({builder.literal("e"), builder.either({builder.literal("-"), builder.literal("+")}),
                         some_digits(1, 2)})});
  return builder.sequence({sign, whole, fraction, exponent});
}

}  // namespace nfloat::grammar
