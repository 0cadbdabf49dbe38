// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/fail.h"
#include "base/interruption.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

constexpr int kMostDecomposed = 32;  // code points of one character; Unicode's longest has 18

int options_of(NormalForm form) noexcept {
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  return UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
         (compatible ? UTF8PROC_COMPAT : 0);
}

auto combining_class(utf8proc_int32_t value) noexcept {
  return utf8proc_get_property(value)->combining_class;
}

// utf8proc sorts combining marks by swapping neighbours, which is quadratic; sorted here, its own pass finds
// nothing to do.
void sort_marks(std::vector<utf8proc_int32_t>& points) {
  for (size_t i = 0; i < points.size();) {
    size_t end = i;
    while (end < points.size() && combining_class(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + static_cast<ptrdiff_t>(i), points.begin() + static_cast<ptrdiff_t>(end),
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end + 1;
  }
}

void append_normalized(std::string& out, std::string_view run, int options) {
  std::vector<utf8proc_int32_t> points;
  Looks looks;
  for (size_t at = 0; at < run.size();) {
    looks.step();
    const Utf8Char next = next_char(run, at);
    at += next.bytes;
    utf8proc_int32_t parts[kMostDecomposed];
    int boundary = UTF8PROC_BOUNDCLASS_START;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next.value), parts, kMostDecomposed,
                                static_cast<utf8proc_option_t>(options), &boundary);
    if (count < 0 || count > kMostDecomposed)
      fail(ErrorCode::kUnsupported, "U+{:04X} cannot be normalized", static_cast<uint32_t>(next.value));
    points.insert(points.end(), parts, parts + count);
  }
  sort_marks(points);
  utf8proc_ssize_t length = static_cast<utf8proc_ssize_t>(points.size());
  if ((options & UTF8PROC_COMPOSE) != 0)
    length = utf8proc_normalize_utf32(points.data(), length, static_cast<utf8proc_option_t>(options));
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(out, static_cast<char32_t>(points[static_cast<size_t>(i)]));
}

}  // namespace

void normalize(std::string& text, NormalForm form) {
  // Characters below this neither change nor combine with what follows, unless that is at or above it.
  const char32_t plain_below = form == NormalForm::kNfc ? 0x300 : 0x80;
  const int options = options_of(form);
  std::string out;
  size_t copied = 0, previous = 0;
  Looks looks;
  for (size_t at = 0; at < text.size();) {
    looks.step();
    const Utf8Char next = next_char(text, at);
    if (next.value < plain_below) {
      previous = at;
      at += next.bytes;
      continue;
    }
    size_t end = at;
    while (end < text.size()) {
      const Utf8Char inside = next_char(text, end);
      if (inside.value < plain_below) break;
      end += inside.bytes;
    }
    const size_t begin = std::max(previous, copied);
    out.append(text, copied, begin - copied);
    append_normalized(out, std::string_view(text).substr(begin, end - begin), options);
    copied = previous = at = end;
  }
  if (copied == 0) return;
  out.append(text, copied, text.size() - copied);
  text = std::move(out);
}

void lower_case(std::string& text) {
  constexpr char32_t kCapitalIWithDot = 0x130;
  std::string out;
  out.reserve(text.size());
  Looks looks;
  for (size_t at = 0; at < text.size();) {
    looks.step();
    const Utf8Char next = next_char(text, at);
    at += next.bytes;
    if (next.value == kCapitalIWithDot)
      out += "i\xCC\x87";
    else
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(next.value))));
  }
  text = std::move(out);
}

}  // namespace nfloat
