// SPDX-License-Identifier: Apache-2.0
// Tokenizers and chat templates.
#include "base/fail.h"
#include "core.h"
#include "handles.h"
#include "nfloat/chat.h"
#include "nfloat/conversation.h"

namespace nfloat::python {

namespace {

constexpr size_t kLongText = size_t{256} << 10;  // bytes

Ref load_tokenizer(Args& args) {
  const std::string path = args.text();
  return make_handle(
      unlocked([&] { return std::make_shared<const Tokenizer>(Tokenizer::load(resolve_model_path(path))); }));
}
Ref maybe_id(std::optional<int32_t> id) {
  return id && *id >= 0 ? integer(*id) : none();
}
// vocab_size, bos_id, eos_id
Ref tokenizer_info(Args& args) {
  const Tokenizer& tokenizer = *args.handle<const Tokenizer>();
  return tuple(integer(tokenizer.vocab_size()), maybe_id(tokenizer.bos_id()), maybe_id(tokenizer.eos_id()));
}
// text, add_special_tokens, parse_special_tokens: memory of int32.
Ref encode(Args& args) {
  const std::shared_ptr<const Tokenizer> tokenizer = args.handle<const Tokenizer>();
  const std::string given = args.text();
  EncodeOptions options;
  options.add_special_tokens = args.flag();
  options.parse_special_tokens = args.flag();
  auto ids = std::make_shared<std::vector<int32_t>>();
  run_endable(given.size() >= kLongText, given.size() >= 256,
              [&] { *ids = tokenizer->encode(given, options); });
  return make_memory(ids, ids->data(), ids->size() * sizeof(int32_t), true);
}
Ref decode(Args& args) {
  const Tokenizer& tokenizer = *args.handle<const Tokenizer>();
  const Array given = args.array();
  const auto ids = given.items<int32_t>("tokens");
  const bool skip_special = args.flag();
  std::string decoded;
  run_endable(ids.size() >= kLongText / 4, false, [&] { decoded = tokenizer.decode(ids, skip_special); });
  return text(decoded);
}
int32_t token_argument(Args& args, const Tokenizer& tokenizer) {
  const int64_t token = args.integer();
  if (token < 0 || token >= tokenizer.vocab_size())
    fail(ErrorCode::kInvalidArgument, "token {} of a vocabulary of {}", token, tokenizer.vocab_size());
  return static_cast<int32_t>(token);
}
Ref token_text(Args& args) {
  const Tokenizer& tokenizer = *args.handle<const Tokenizer>();
  return text(tokenizer.token_text(token_argument(args, tokenizer)));
}
Ref token_bytes(Args& args) {
  const Tokenizer& tokenizer = *args.handle<const Tokenizer>();
  return bytes(tokenizer.token_bytes(token_argument(args, tokenizer)));
}
Ref token_id(Args& args) {
  const Tokenizer& tokenizer = *args.handle<const Tokenizer>();
  return maybe_id(tokenizer.token_id(args.text()));
}
Ref is_special(Args& args) {
  const Tokenizer& tokenizer = *args.handle<const Tokenizer>();
  return boolean(tokenizer.is_special(token_argument(args, tokenizer)));
}

Ref maybe_template(std::optional<ChatTemplate> found) {
  if (!found) return none();
  return make_handle(std::make_shared<const ChatTemplate>(*std::move(found)));
}
Ref parse_chat_template(Args& args) {
  return maybe_template(ChatTemplate::parse(args.text()));
}
// folder, name: None where the folder has none.
Ref load_chat_template(Args& args) {
  const std::string folder = resolve_model_path(args.text()), name = args.text();
  return maybe_template(unlocked([&] { return ChatTemplate::load(folder, name); }));
}
// folder, tokenizer: the folder's, else ChatML where the vocabulary has its tokens.
Ref chat_template_of(Args& args) {
  const std::string folder = resolve_model_path(args.text());
  const std::shared_ptr<const Tokenizer> tokenizer = args.handle<const Tokenizer>();
  return maybe_template(unlocked([&] { return nfloat::chat_template_of(folder, *tokenizer); }));
}
// variables as JSON.
Ref render(Args& args) {
  const ChatTemplate& chat = *args.handle<const ChatTemplate>();
  return text(chat.render(args.text()));
}

}  // namespace

std::vector<PyMethodDef> text_methods() {
  return {method<load_tokenizer>("load_tokenizer"),
          method<tokenizer_info>("tokenizer_info"),
          method<encode>("encode"),
          method<decode>("decode"),
          method<token_text>("token_text"),
          method<token_bytes>("token_bytes"),
          method<token_id>("token_id"),
          method<is_special>("is_special"),
          method<parse_chat_template>("parse_chat_template"),
          method<load_chat_template>("load_chat_template"),
          method<python::chat_template_of>("chat_template_of"),
          method<render>("render")};
}

}  // namespace nfloat::python
