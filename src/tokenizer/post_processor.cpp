// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/post_processor.h"

#include "tokenizer/vocabulary.h"

namespace nfloat {
namespace {

int32_t read_id(const JsonAt& json) {
  return static_cast<int32_t>(json.integer(0, kMaxTokenId));
}

Surroundings read_template(const JsonAt& json) {
  Surroundings result;
  const JsonAt tokens = json["special_tokens"];
  bool text_seen = false;
  for (const JsonAt& item : json["single"].elements()) {
    if (const JsonAt sequence = item["Sequence"]; sequence.present()) {
      if (text_seen || sequence["id"].text() != "A") item.unsupported("a template must use the text A once");
      text_seen = true;
      continue;
    }
    const std::string& name = item["SpecialToken"]["id"].text();
    for (const JsonAt& id : tokens[name.c_str()]["ids"].elements())
      (text_seen ? result.after : result.before).push_back(read_id(id));
  }
  if (!text_seen) json["single"].unsupported("a template must use the text A once");
  return result;
}

// ["[SEP]", 102]
int32_t read_named(const JsonAt& json) {
  const std::vector<JsonAt> pair = json.elements();
  if (pair.size() != 2) json.wrong("a token and its id");
  return read_id(pair[1]);
}

}  // namespace

Surroundings read_post_processor(const JsonAt& json) {
  Surroundings result;
  if (!json.present()) return result;
  const std::string& type = json["type"].text();
  if (type == "TemplateProcessing") return read_template(json);
  if (type == "ByteLevel") return result;  // it only corrects offsets
  if (type == "BertProcessing" || type == "RobertaProcessing")
    return {{read_named(json["cls"])}, {read_named(json["sep"])}};
  if (type == "Sequence") {
    for (const JsonAt& child : json["processors"].elements()) {
      const Surroundings outer = read_post_processor(child);
      result.before.insert(result.before.begin(), outer.before.begin(), outer.before.end());
      result.after.insert(result.after.end(), outer.after.begin(), outer.after.end());
    }
    return result;
  }
  json.unsupported("post-processors of the kind \"" + type.substr(0, 60) + "\" are not supported");
}

}  // namespace nfloat
