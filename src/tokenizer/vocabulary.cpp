// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/vocabulary.h"

#include <algorithm>

namespace nfloat {

Vocabulary::Vocabulary(std::vector<std::string> texts) : texts_(std::move(texts)) {
  ids_.reserve(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id)
    if (!texts_[id].empty()) ids_[texts_[id]] = static_cast<int32_t>(id);
}

Vocabulary Vocabulary::from_object(const JsonAt& json) {
  const Json& object = json.object();
  std::vector<std::string> texts;
  for (const auto& [text, value] : object.items()) {
    const bool fits =
        value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kMaxTokenId);
    if (!fits) json[text.c_str()].wrong(fmt::format("a token id from 0 to {}", kMaxTokenId));
    const auto id = value.get<size_t>();
    if (id >= texts.size()) texts.resize(std::max(id + 1, std::min<size_t>(object.size(), kMaxTokenId + 1)));
    if (!texts[id].empty())
      json.malformed(fmt::format("the tokens \"{}\" and \"{}\" have the same id {}", texts[id].substr(0, 60),
                                 text.substr(0, 60), id));
    texts[id] = text;
  }
  while (!texts.empty() && texts.back().empty()) texts.pop_back();
  return Vocabulary(std::move(texts));
}

}  // namespace nfloat
