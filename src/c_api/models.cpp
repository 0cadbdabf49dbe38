// SPDX-License-Identifier: Apache-2.0
// Tokenizers, chat templates, models and what runs on them.
#include <optional>
#include <span>
#include <vector>

#include "c_api/handles.h"
#include "nfloat/chat.h"
#include "nfloat/evaluate.h"

using nfloat::ErrorCode;
using nfloat::fail;
using namespace nfloat::c_api;

struct nfloat_chat_template {
  nfloat::ChatTemplate value;
};
namespace nfloat::c_api {

std::string_view text_of(const char* text, size_t bytes, const char* name) {
  return bytes == 0 ? std::string_view() : std::string_view(needed(text, name), bytes);
}
std::span<const int32_t> tokens_of(const int32_t* tokens, size_t count) {
  if (count != 0) needed(tokens, "tokens");
  return {tokens, count};
}
void check_reserved(int32_t reserved, const char* type) {
  if (reserved != 0) fail(ErrorCode::kUnsupported, "{}.reserved is {}", type, reserved);
}

PerplexityOptions perplexity_options_of(const nfloat_perplexity_options* given, nfloat_control* control) {
  const auto from = read_options(given, "nfloat_perplexity_options");
  check_reserved(from.reserved, "nfloat_perplexity_options");
  PerplexityOptions options;
  options.protocol = enumerator<PerplexityProtocol>(from.protocol, NFLOAT_PROTOCOL_BOS, "protocol");
  options.context = from.context;
  options.kv_cache = kv_cache_of(from.kv_cache);
  options.precision = precision_of(from.precision);
  begin_progress(control, 0);
  if (control != nullptr) {
    options.progress = [control](int64_t done, int64_t total, double) {
      show_progress(control, static_cast<uint64_t>(done), static_cast<uint64_t>(total));
    };
    options.cancelled = [control] { return control->cancelled.load(); };
  }
  return options;
}

}  // namespace nfloat::c_api

nfloat_status nfloat_tokenizer_load(const char* path, nfloat_tokenizer** tokenizer, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(tokenizer, "tokenizer");
    *tokenizer = new nfloat_tokenizer{nfloat::Tokenizer::load(needed(path, "path"))};
  });
}
void nfloat_tokenizer_free(nfloat_tokenizer* tokenizer) {
  delete tokenizer;
}
int32_t nfloat_tokenizer_vocab_size(const nfloat_tokenizer* tokenizer) {
  return tokenizer == nullptr ? 0 : tokenizer->value.vocab_size();
}
int32_t nfloat_tokenizer_bos_id(const nfloat_tokenizer* tokenizer) {
  return tokenizer == nullptr ? -1 : tokenizer->value.bos_id().value_or(-1);
}
int32_t nfloat_tokenizer_eos_id(const nfloat_tokenizer* tokenizer) {
  return tokenizer == nullptr ? -1 : tokenizer->value.eos_id().value_or(-1);
}
int32_t nfloat_tokenizer_token_id(const nfloat_tokenizer* tokenizer, const char* text) {
  if (tokenizer == nullptr || text == nullptr) return -1;
  int32_t id = -1;
  guard(nullptr, [&] { id = tokenizer->value.token_id(text).value_or(-1); });
  return id;
}
nfloat_status nfloat_tokenizer_encode(const nfloat_tokenizer* tokenizer, const char* text, size_t text_bytes,
                                      uint32_t flags, nfloat_buffer** tokens, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(tokens, "tokens");
    if ((flags & ~uint32_t{3}) != 0)
      fail(ErrorCode::kUnsupported, "flags are {:#x}: a bit is not known", flags);
    nfloat::EncodeOptions options;
    options.add_special_tokens = (flags & NFLOAT_ENCODE_NO_SPECIAL_TOKENS) == 0;
    options.parse_special_tokens = (flags & NFLOAT_ENCODE_PLAIN) == 0;
    const std::vector<int32_t> ids =
        needed(tokenizer, "tokenizer")->value.encode(text_of(text, text_bytes, "text"), options);
    *tokens = make_buffer(ids.data(), ids.size() * sizeof(int32_t));
  });
}
nfloat_status nfloat_tokenizer_decode(const nfloat_tokenizer* tokenizer, const int32_t* tokens, size_t count,
                                      int32_t skip_special_tokens, nfloat_buffer** text,
                                      nfloat_error** error) {
  return guard(error, [&] {
    needed_result(text, "text");
    *text = make_buffer(
        needed(tokenizer, "tokenizer")
            ->value.decode(tokens_of(tokens, count), flag(skip_special_tokens, "skip_special_tokens")));
  });
}
nfloat_status nfloat_tokenizer_token_bytes(const nfloat_tokenizer* tokenizer, int32_t token,
                                           nfloat_buffer** bytes, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(bytes, "bytes");
    const nfloat::Tokenizer& from = needed(tokenizer, "tokenizer")->value;
    if (token < 0 || token >= from.vocab_size())
      fail(ErrorCode::kInvalidArgument, "token {} of a vocabulary of {}", token, from.vocab_size());
    *bytes = make_buffer(from.token_bytes(token));
  });
}

nfloat_status nfloat_chat_template_load(const char* folder, const char* name, nfloat_chat_template** chat,
                                        nfloat_error** error) {
  return guard(error, [&] {
    needed_result(chat, "chat");
    const std::string wanted = name == nullptr ? "default" : name;
    std::optional<nfloat::ChatTemplate> loaded = nfloat::ChatTemplate::load(needed(folder, "folder"), wanted);
    if (!loaded) fail(ErrorCode::kNotFound, "{} has no chat template '{}'", folder, wanted);
    *chat = new nfloat_chat_template{*std::move(loaded)};
  });
}
nfloat_status nfloat_chat_template_parse(const char* text, size_t text_bytes, nfloat_chat_template** chat,
                                         nfloat_error** error) {
  return guard(error, [&] {
    needed_result(chat, "chat");
    *chat = new nfloat_chat_template{nfloat::ChatTemplate::parse(text_of(text, text_bytes, "text"))};
  });
}
void nfloat_chat_template_free(nfloat_chat_template* chat) {
  delete chat;
}
nfloat_status nfloat_chat_template_render(const nfloat_chat_template* chat, const char* variables,
                                          size_t variables_bytes, nfloat_buffer** text,
                                          nfloat_error** error) {
  return guard(error, [&] {
    needed_result(text, "text");
    *text = make_buffer(needed(chat, "chat")->value.render(text_of(variables, variables_bytes, "variables")));
  });
}

nfloat_status nfloat_model_load(const char* path, const nfloat_model_options* given, nfloat_control* control,
                                nfloat_model** model, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(model, "model");
    const auto from = read_options(given, "nfloat_model_options");
    check_reserved(from.reserved, "nfloat_model_options");
    nfloat::ModelOptions options;
    const nfloat::QuantizeOptions quantize = quantize_options_of(from.quantize);
    if (quantize.scale != nfloat::ScaleMethod::kAbsmax || quantize.allow_nonfinite)
      fail(ErrorCode::kUnsupported,
           "a model that is quantized while loading has absmax scales of finite weights");
    if (from.codebook != nullptr) options.quantize = from.codebook->value;
    options.quantize_block_size = quantize.block_size;
    options.quantize_double = quantize.double_quantization;
    options.head = enumerator<nfloat::HeadFormat>(from.head, NFLOAT_HEAD_NF4, "head");
    options.precision = precision_of(from.precision).value_or(nfloat::Precision::kBF16);
    options.threads = thread_count(from.threads);
    if (from.device != nullptr) options.device = from.device;
    begin_progress(control, 0);
    if (control != nullptr)
      options.progress = [control](uint64_t done, uint64_t total) { show_progress(control, done, total); };
    const std::string folder = nfloat::resolve_model_path(needed(path, "path"));
    nfloat::Model loaded = nfloat::Model::load(folder, options);
    auto defaults = std::make_shared<const nfloat::GenerationDefaults>(folder, loaded.config());
    *model = new nfloat_model{std::move(loaded), std::move(defaults)};
  });
}
void nfloat_model_free(nfloat_model* model) {
  delete model;
}
int64_t nfloat_model_vocabulary(const nfloat_model* model) {
  return model == nullptr ? 0 : model->value.config().vocabulary;
}
int64_t nfloat_model_context(const nfloat_model* model) {
  return model == nullptr ? 0 : model->value.config().context;
}

nfloat_status nfloat_session_create(const nfloat_model* model, const nfloat_session_options* given,
                                    nfloat_session** session, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(session, "session");
    const auto from = read_options(given, "nfloat_session_options");
    check_reserved(from.reserved, "nfloat_session_options");
    nfloat::SessionOptions options;
    options.context = from.context;
    options.kv_cache = kv_cache_of(from.kv_cache);
    options.precision = precision_of(from.precision);
    options.threads = thread_count(from.threads);
    *session = new nfloat_session{nfloat::Session(needed(model, "model")->value, options), model->defaults};
  });
}
void nfloat_session_free(nfloat_session* session) {
  delete session;
}
int64_t nfloat_session_context(const nfloat_session* session) {
  return session == nullptr ? 0 : session->value.context();
}
int64_t nfloat_session_position(const nfloat_session* session) {
  return session == nullptr ? 0 : session->value.position();
}
nfloat_status nfloat_session_prefill(nfloat_session* session, const int32_t* tokens, size_t count,
                                     float* all_logits, size_t all_logits_count, nfloat_control* control,
                                     nfloat_error** error) {
  return guard(error, [&] {
    nfloat::Session& to = needed(session, "session")->value;
    const std::span<const int32_t> all = tokens_of(tokens, count);
    const auto vocabulary = static_cast<size_t>(to.model().config().vocabulary);
    if (all.empty()) fail(ErrorCode::kInvalidArgument, "no tokens: at least one");
    if (static_cast<uint64_t>(to.context() - to.position()) < count)
      fail(ErrorCode::kInvalidArgument, "{} tokens at position {} of a context of {}", count, to.position(),
           to.context());
    if (all_logits != nullptr && all_logits_count != count * vocabulary)
      fail(ErrorCode::kInvalidArgument, "all_logits has {} floats, expected {} * {}", all_logits_count, count,
           vocabulary);
    const int64_t start = to.position();
    begin_progress(control, count);
    try {
      const size_t piece = control == nullptr ? count : 64;
      for (size_t begin = 0; begin < count; begin += piece) {
        show_progress(control, begin, count);
        const auto part = all.subspan(begin, std::min(piece, count - begin));
        if (all_logits == nullptr) {
          to.prefill(part);
          continue;
        }
        const nfloat::BatchEntry entry{&to, part};
        nfloat::forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
          std::memcpy(all_logits + (begin + static_cast<size_t>(index)) * vocabulary, logits.data(),
                      vocabulary * sizeof(float));
        });
      }
      show_progress(control, count, count);
    } catch (...) {
      if (to.position() != start) to.rewind(start);
      throw;
    }
  });
}
const float* nfloat_session_logits(const nfloat_session* session) {
  if (session == nullptr || session->value.logits().empty()) return nullptr;
  return session->value.logits().data();
}
nfloat_status nfloat_session_rewind(nfloat_session* session, int64_t position, nfloat_error** error) {
  return guard(error, [&] { needed(session, "session")->value.rewind(position); });
}
nfloat_status nfloat_session_fork(const nfloat_session* session, nfloat_session** fork,
                                  nfloat_error** error) {
  return guard(error, [&] {
    needed_result(fork, "fork");
    *fork = new nfloat_session{needed(session, "session")->value.fork(), session->defaults};
  });
}

nfloat_status nfloat_forward_batch(const nfloat_batch_entry* entries, size_t count,
                                   nfloat_logits_function function, void* user, nfloat_error** error) {
  return guard(error, [&] {
    if (count != 0) needed(entries, "entries");
    std::vector<nfloat::BatchEntry> batch;
    batch.reserve(count);
    for (size_t i = 0; i < count; ++i)
      batch.push_back({&needed(entries[i].session, "entries[].session")->value,
                       tokens_of(entries[i].tokens, entries[i].count)});
    nfloat::LogitsVisitor visitor;
    if (function != nullptr)
      visitor = [&](size_t entry, int64_t index, std::span<const float> logits) {
        function(user, entry, index, logits.data());
      };
    nfloat::forward_batch(batch, visitor);
  });
}

nfloat_status nfloat_perplexity(const nfloat_model* model, const int32_t* tokens, size_t count,
                                const nfloat_perplexity_options* given, nfloat_control* control,
                                nfloat_perplexity_result* result, nfloat_error** error) {
  return guard(error, [&] {
    needed(result, "result");
    const nfloat::PerplexityOptions options = perplexity_options_of(given, control);
    const nfloat::PerplexityResult made =
        nfloat::perplexity(needed(model, "model")->value, tokens_of(tokens, count), options);
    write_result({0, made.tokens, made.windows, made.mean_loss, made.standard_error, made.perplexity}, result,
                 "nfloat_perplexity_result");
  });
}
