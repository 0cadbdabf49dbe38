// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp.h"

#include <llama.h>

#include <algorithm>
#include <stdexcept>

namespace judge {

struct LlamaCpp::State {
  llama_model* model = nullptr;
  llama_context* context = nullptr;
  const llama_vocab* vocabulary = nullptr;
};

void LlamaCpp::start(const std::string& libraries) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fprintf(stderr, "llama.cpp: %s", text);
      },
      nullptr);
  ggml_backend_load_all_from_path(libraries.c_str());
}

LlamaCpp::LlamaCpp(const std::string& path, int context, bool vocabulary_only)
    : state_(std::make_unique<State>()) {
  llama_model_params model_params = llama_model_default_params();
  model_params.vocab_only = vocabulary_only;
  model_params.use_extra_bufts = false;  // no repacked weights: plain F32 products
  state_->model = llama_model_load_from_file(path.c_str(), model_params);
  if (state_->model == nullptr) throw std::runtime_error("llama.cpp does not load " + path);
  state_->vocabulary = llama_model_get_vocab(state_->model);
  if (vocabulary_only) return;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(context);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(context);
  params.n_threads = params.n_threads_batch = 2;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.swa_full = true;
  state_->context = llama_init_from_model(state_->model, params);
  if (state_->context == nullptr) throw std::runtime_error("llama.cpp makes no context for " + path);
}

LlamaCpp::~LlamaCpp() {
  if (state_->context != nullptr) llama_free(state_->context);
  if (state_->model != nullptr) llama_model_free(state_->model);
}

int LlamaCpp::vocabulary() const {
  return llama_vocab_n_tokens(state_->vocabulary);
}

std::vector<float> LlamaCpp::logits(const std::vector<int32_t>& tokens) const {
  llama_memory_clear(llama_get_memory(state_->context), true);
  const auto count = static_cast<int32_t>(tokens.size());
  llama_batch batch = llama_batch_init(count, 0, 1);
  batch.n_tokens = count;
  for (int32_t i = 0; i < count; ++i) {
    batch.token[i] = tokens[static_cast<size_t>(i)];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  const int result = llama_decode(state_->context, batch);
  llama_batch_free(batch);
  if (result != 0) throw std::runtime_error("llama_decode fails");
  std::vector<float> rows;
  for (int32_t i = 0; i < count; ++i) {
    const float* row = llama_get_logits_ith(state_->context, i);
    rows.insert(rows.end(), row, row + vocabulary());
  }
  return rows;
}

std::vector<int32_t> LlamaCpp::greedy(std::vector<int32_t> prompt, int count) const {
  llama_memory_clear(llama_get_memory(state_->context), true);
  std::vector<int32_t> made;
  for (int i = 0; i < count; ++i) {
    if (llama_decode(state_->context,
                     llama_batch_get_one(prompt.data(), static_cast<int32_t>(prompt.size()))) != 0)
      throw std::runtime_error("llama_decode fails");
    const float* row = llama_get_logits_ith(state_->context, -1);
    made.push_back(static_cast<int32_t>(std::max_element(row, row + vocabulary()) - row));
    prompt = {made.back()};
  }
  return made;
}

std::vector<int32_t> LlamaCpp::tokenize(std::string_view text, bool specials) const {
  std::vector<int32_t> ids(text.size() + 16);
  const int32_t count = llama_tokenize(state_->vocabulary, text.data(), static_cast<int32_t>(text.size()),
                                       ids.data(), static_cast<int32_t>(ids.size()), specials, specials);
  if (count < 0) throw std::runtime_error("llama_tokenize fails");
  ids.resize(static_cast<size_t>(count));
  return ids;
}

void quantize(const std::string& from, const std::string& to, const std::string& type) {
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = 2;
  params.pure = true;
  params.ftype = type == "q4_0"     ? LLAMA_FTYPE_MOSTLY_Q4_0
                 : type == "iq4_nl" ? LLAMA_FTYPE_MOSTLY_IQ4_NL
                 : type == "q4_K"   ? LLAMA_FTYPE_MOSTLY_Q4_K_S
                                    : LLAMA_FTYPE_MOSTLY_Q8_0;
  if (llama_model_quantize(from.c_str(), to.c_str(), &params) != 0)
    throw std::runtime_error("llama.cpp does not quantize " + from);
}

bool decode(uint32_t type, const void* blocks, float* output, int64_t count) {
  const ggml_type_traits* traits = ggml_get_type_traits(static_cast<ggml_type>(type));
  if (traits == nullptr || traits->to_float == nullptr) return false;
  traits->to_float(blocks, output, count);
  return true;
}

int64_t block_bytes(uint32_t type) {
  return static_cast<int64_t>(ggml_type_size(static_cast<ggml_type>(type)));
}

int64_t block_elements(uint32_t type) {
  return ggml_blck_size(static_cast<ggml_type>(type));
}

void encode(uint32_t type, const float* values, void* output, int64_t rows, int64_t cols) {
  ggml_quantize_chunk(static_cast<ggml_type>(type), values, output, 0, rows, cols, nullptr);
}

}  // namespace judge
