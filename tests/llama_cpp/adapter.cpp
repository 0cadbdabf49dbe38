// SPDX-License-Identifier: Apache-2.0
// adapter FOLDER-OF-LIBRARIES MODEL.gguf ADAPTER.gguf MODEL ADAPTER: llama.cpp's logits of a model with an
// adapter beside it, and nfloat's of the same two as folders. Exit status 1 where they differ by more than 2
// % of what the adapter changes, or the adapter changes nothing.
#include <dlfcn.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "nfloat/adapter.h"
#include "nfloat/model.h"

namespace {

void* open_library(const std::string& path) {
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", ::dlerror());
    std::exit(2);
  }
  return library;
}

template <typename Function>
Function* symbol(void* library, const char* name) {
  void* const found = ::dlsym(library, name);
  if (found == nullptr) {
    std::fprintf(stderr, "no %s in the library\n", name);
    std::exit(2);
  }
  return reinterpret_cast<Function*>(found);
}

double distance(const std::vector<float>& x, const std::vector<float>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sum += d * d;
  }
  return std::sqrt(sum / static_cast<double>(x.size()));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const std::string folder = argv[1];
  void* const ggml = open_library(folder + "/libggml.v0.5.0.so");
  void* const library = open_library(folder + "/libllama.v0.5.0.so");
  symbol<decltype(llama_log_set)>(library, "llama_log_set")(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  symbol<void(const char*)>(ggml, "ggml_backend_load_all_from_path")(folder.c_str());

  llama_model_params model_params =
      symbol<decltype(llama_model_default_params)>(library, "llama_model_default_params")();
  model_params.n_gpu_layers = 0;
  llama_model* const model = symbol<decltype(llama_model_load_from_file)>(
      library, "llama_model_load_from_file")(argv[2], model_params);
  if (model == nullptr) return 2;
  llama_adapter_lora* adapter =
      symbol<decltype(llama_adapter_lora_init)>(library, "llama_adapter_lora_init")(model, argv[3]);
  if (adapter == nullptr) {
    std::fprintf(stderr, "llama.cpp does not load %s\n", argv[3]);
    return 1;
  }
  std::vector<llama_token> tokens;
  for (int i = 0; i < 24; ++i) tokens.push_back(5 + i * 37 % 250);
  const auto theirs = [&](bool with) {
    llama_context_params params =
        symbol<decltype(llama_context_default_params)>(library, "llama_context_default_params")();
    params.n_ctx = 128;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.n_threads = params.n_threads_batch = 1;
    llama_context* const context =
        symbol<decltype(llama_init_from_model)>(library, "llama_init_from_model")(model, params);
    if (context == nullptr) std::exit(2);
    float one = 1;
    if (with)
      symbol<decltype(llama_set_adapters_lora)>(library, "llama_set_adapters_lora")(context, &adapter, 1,
                                                                                    &one);
    const llama_batch batch = symbol<decltype(llama_batch_get_one)>(library, "llama_batch_get_one")(
        tokens.data(), static_cast<int32_t>(tokens.size()));
    if (symbol<decltype(llama_decode)>(library, "llama_decode")(context, batch) != 0) std::exit(2);
    const float* logits =
        symbol<decltype(llama_get_logits_ith)>(library, "llama_get_logits_ith")(context, -1);
    const int32_t count = symbol<decltype(llama_vocab_n_tokens)>(library, "llama_vocab_n_tokens")(
        symbol<decltype(llama_model_get_vocab)>(library, "llama_model_get_vocab")(model));
    return std::vector<float>(logits, logits + count);
  };
  const nfloat::Model own = nfloat::Model::load(argv[4], {.precision = nfloat::Precision::kF32});
  const auto ours = [&] {
    nfloat::Session session(own, {.kv_cache = nfloat::KvCacheType::kF32});
    const std::vector<int32_t> ids(tokens.begin(), tokens.end());
    const std::span<const float> logits = session.prefill(ids);
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> plain = ours(), their_plain = theirs(false), their_adapted = theirs(true);
  nfloat::attach_adapters(own, {{argv[5]}});
  const std::vector<float> adapted = ours();
  const double change = distance(plain, adapted), base = distance(plain, their_plain),
               difference = distance(adapted, their_adapted);
  const bool good = change > 0.1 && difference <= 0.02 * change;
  std::printf("adapter: changes logits by %.4f; llama.cpp differs by %.6f without it, %.6f with it%s\n",
              change, base, difference, good ? "" : "  DIFFERS");
  return good ? 0 : 1;
}
