// SPDX-License-Identifier: Apache-2.0
// Schemas and expressions; of what compiles, a text is made by following the masks, which must allow what can
// be followed.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "nfloat/error.h"
#include "nfloat/grammar.h"

namespace {

// All bytes, then texts whose masks are found without following them.
const std::vector<std::string>& tokens() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list;
    for (int byte = 0; byte < 256; ++byte) list.emplace_back(1, static_cast<char>(byte));
    for (const char* text :
         {"ab", "abc", " the", "11", "a\", \"", "\"}", "\xc3\xa9", "a\xe2\x82\xac", "\xe2\x82"})
      list.emplace_back(text);
    for (const size_t length : {8u, 31u, 32u, 33u, 60u}) list.emplace_back(length, 'a');
    return list;
  }();
  return all;
}
const nfloat::GrammarVocabulary& vocabulary() {
  static const nfloat::GrammarVocabulary one(tokens());
  return one;
}

// Takes the allowed token that the input's next one chooses. True: the text is complete.
bool follow(const nfloat::Grammar& grammar, std::string_view choices, std::string& text) {
  nfloat::GrammarMatcher matcher(grammar, vocabulary(), {});
  for (size_t i = 0; i < 300 && !matcher.must_end(); ++i) {
    const auto mask = matcher.allowed();
    std::vector<int32_t> list;
    for (int32_t token = 0; token < static_cast<int32_t>(tokens().size()); ++token) {
      const bool allowed = (mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
      if (i < 40 && nfloat::GrammarMatcher(matcher).accept(token) != allowed) std::abort();
      if (allowed) list.push_back(token);
    }
    if (list.empty()) return matcher.may_end();
    const auto choice = static_cast<unsigned char>(choices.empty() ? 0 : choices[i % choices.size()]);
    const int32_t token = list[choice % list.size()];
    if (!matcher.accept(token)) std::abort();
    text += tokens()[static_cast<size_t>(token)];
  }
  return matcher.may_end();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    std::string made;
    if (follow(nfloat::Grammar::from_json_schema(text), text, made))
      nfloat::Json::parse(made, {.depth = 1000});
  } catch (const nfloat::JsonError&) {
    std::abort();  // a complete text is JSON
  } catch (const nfloat::Error&) {
  }
  try {
    std::string made;
    follow(nfloat::Grammar::from_regex(text), text, made);
  } catch (const nfloat::Error&) {
  }
  return 0;
}
