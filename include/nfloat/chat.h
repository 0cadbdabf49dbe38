// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_H_
#define NFLOAT_CHAT_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "nfloat/api.h"

namespace nfloat {

// A model's chat template: the part of Jinja that such templates use, with the settings of Transformers
// (trim_blocks, lstrip_blocks, break and continue, tojson without escapes for HTML). What is not supported
// (a statement, filter, test, function, or one of their arguments) is an error, never ignored. Immutable:
// any number of threads may render one object. Copies share the parsed template.
class NFLOAT_API ChatTemplate {
 public:
  // `source` names the template in messages. Throws kMalformedFile with the line (syntax, nesting deeper
  // than 200, more than 4 MiB) or kUnsupported (a statement that chat templates do not use).
  static ChatTemplate parse(std::string_view text, const std::string& source = "chat template");
  // From a model folder: chat_template.jinja with the additional_chat_templates beside it, else
  // "chat_template" of chat_template.json or tokenizer_config.json, a text or named ones. An empty name
  // leaves the choice to what is rendered, as Transformers does: "tool_use" when there is one and tools are
  // given, else "default". The special tokens of tokenizer_config.json and special_tokens_map.json
  // (bos_token, ...) become variables. Returns nothing when the folder has no template of this name.
  static std::optional<ChatTemplate> load(const std::string& folder, const std::string& name = "");

  // `variables` is a JSON object: messages, add_generation_prompt, tools, ... A later one hides a special
  // token of the same name. tools and documents are none and add_generation_prompt is false where not given.
  // Besides them templates have raise_exception, strftime_now, range, dict and namespace. Throws
  // kInvalidArgument with the template's line: what raise_exception says, an operation that its operands do
  // not support, or a limit (2 million steps, 64 MiB of intermediate text, nesting).
  std::string render(std::string_view variables) const;

  struct State;

 private:
  explicit ChatTemplate(std::shared_ptr<const State> state) noexcept : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_CHAT_H_
