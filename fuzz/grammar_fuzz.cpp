// SPDX-License-Identifier: Apache-2.0
// Schemas and expressions; of what compiles, a text is made by following the masks.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "nfloat/error.h"
#include "nfloat/grammar.h"

namespace {

const nfloat::GrammarVocabulary& bytes() {
  static const nfloat::GrammarVocabulary all = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    return nfloat::GrammarVocabulary(tokens);
  }();
  return all;
}

// Takes the allowed byte that the input's next one chooses. True: the text is complete.
bool follow(const nfloat::Grammar& grammar, std::string_view choices, std::string& text) {
  nfloat::GrammarMatcher matcher(grammar, bytes(), {});
  for (size_t i = 0; i < 300 && !matcher.must_end(); ++i) {
    const auto mask = matcher.allowed();
    std::vector<int32_t> list;
    for (int32_t token = 0; token < 256; ++token)
      if ((mask[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0) list.push_back(token);
    if (list.empty()) return matcher.may_end();
    const auto choice = static_cast<unsigned char>(choices.empty() ? 0 : choices[i % choices.size()]);
    const int32_t token = list[choice % list.size()];
    if (!matcher.accept(token)) std::abort();
    text += static_cast<char>(token);
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
