// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/token_model.h"

namespace nfloat {

int32_t token_named(const JsonAt& json, const Vocabulary& vocabulary) {
  if (!json.present()) return kNoToken;
  const int32_t id = vocabulary.find(json.text());
  if (id == kNoToken) json.wrong("a token of the vocabulary");
  return id;
}

std::vector<int32_t> byte_tokens(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids(256);
  for (size_t byte = 0; byte < ids.size(); ++byte)
    ids[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte));
  return ids;
}

std::unique_ptr<const TokenModel> make_token_model(const JsonAt& json) {
  // Files of before the "type" key are byte-pair encodings: only those have merges.
  const std::string type = json["type"].text_or(json["merges"].present() ? "BPE" : "");
  if (type == "BPE") return make_bpe(json);
  json.unsupported("models of the kind \"" + type.substr(0, 60) + "\" are not supported");
}

}  // namespace nfloat
