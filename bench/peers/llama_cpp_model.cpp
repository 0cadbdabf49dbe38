// SPDX-License-Identifier: Apache-2.0
// llama.cpp on the shape of `nfloat bench --synthetic 1b`, for bench/peers/run, which compiles it against the
// packaged libraries.
//   llama_cpp_model make TYPE FILE            writes a GGUF of random weights: q4_0, iq4_nl, q4_K
//   llama_cpp_model run FILE LIBRARIES THREADS PREFILL GENERATE REPETITIONS
// prints one JSON object a run: load seconds, peak bytes, tokens a second of every repetition.
//   llama_cpp_model batch FILE LIBRARIES THREADS SEQUENCES PREFILL GENERATE REPETITIONS
// the same for that many sequences, each with a prompt of its own, that are continued together: one
// llama_batch a step.
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "gguf.h"
#include "llama.h"

namespace {

constexpr int kLayers = 16, kHidden = 2048, kInside = 8192, kHeads = 32, kKvHeads = 8, kVocabulary = 32000;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ggml_type parse_type(const std::string& name) {
  for (ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL, GGML_TYPE_Q4_K})
    if (name == ggml_type_name(type)) return type;
  std::fprintf(stderr, "unknown type %s\n", name.c_str());
  std::exit(2);
}

int make(const std::string& type_name, const char* path) {
  const ggml_type type = parse_type(type_name);
  ggml_context* context = ggml_init({size_t{1} << 30, nullptr, false});
  gguf_context* file = gguf_init_empty();
  gguf_set_val_str(file, "general.architecture", "llama");
  gguf_set_val_str(file, "tokenizer.ggml.model", "no_vocab");
  for (const auto& [key, value] : {std::pair{"llama.vocab_size", kVocabulary},
                                   {"llama.context_length", 8192},
                                   {"llama.embedding_length", kHidden},
                                   {"llama.block_count", kLayers},
                                   {"llama.feed_forward_length", kInside},
                                   {"llama.attention.head_count", kHeads},
                                   {"llama.attention.head_count_kv", kKvHeads},
                                   {"llama.rope.dimension_count", kHidden / kHeads}})
    gguf_set_val_u32(file, key, static_cast<uint32_t>(value));
  gguf_set_val_f32(file, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  gguf_set_val_f32(file, "llama.rope.freq_base", 500000.0f);

  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  // One row quantized and repeated: the time does not depend on the values.
  const auto add = [&](const std::string& name, int64_t outputs, int64_t inputs) {
    ggml_tensor* tensor = ggml_new_tensor_2d(context, type, inputs, outputs);
    ggml_set_name(tensor, name.c_str());
    std::vector<float> row(static_cast<size_t>(inputs));
    for (float& value : row) value = normal(generator) / std::sqrt(static_cast<float>(inputs));
    const size_t bytes = ggml_quantize_chunk(type, row.data(), tensor->data, 0, 1, inputs, nullptr);
    for (int64_t i = 1; i < outputs; ++i)
      std::memcpy(static_cast<char*>(tensor->data) + static_cast<size_t>(i) * bytes, tensor->data, bytes);
    gguf_add_tensor(file, tensor);
  };
  const auto add_norm = [&](const std::string& name) {
    ggml_tensor* tensor = ggml_new_tensor_1d(context, GGML_TYPE_F32, kHidden);
    ggml_set_name(tensor, name.c_str());
    for (int i = 0; i < kHidden; ++i) static_cast<float*>(tensor->data)[i] = 1;
    gguf_add_tensor(file, tensor);
  };
  add("token_embd.weight", kVocabulary, kHidden);
  add_norm("output_norm.weight");
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    add_norm(prefix + "attn_norm.weight");
    add(prefix + "attn_q.weight", kHidden, kHidden);
    add(prefix + "attn_k.weight", kHidden / kHeads * kKvHeads, kHidden);
    add(prefix + "attn_v.weight", kHidden / kHeads * kKvHeads, kHidden);
    add(prefix + "attn_output.weight", kHidden, kHidden);
    add_norm(prefix + "ffn_norm.weight");
    add(prefix + "ffn_gate.weight", kInside, kHidden);
    add(prefix + "ffn_up.weight", kInside, kHidden);
    add(prefix + "ffn_down.weight", kHidden, kInside);
  }
  return gguf_write_to_file(file, path, false) ? 0 : 1;
}

void print_rates(const char* name, const std::vector<double>& rates) {
  std::printf(", \"%s\": [", name);
  for (size_t i = 0; i < rates.size(); ++i) std::printf("%s%.3f", i > 0 ? ", " : "", rates[i]);
  std::printf("]");
}

int run(char** argv) {
  const int threads = std::atoi(argv[4]), prefill = std::atoi(argv[5]), generate = std::atoi(argv[6]);
  const int repetitions = std::atoi(argv[7]);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all_from_path(argv[3]);
  const Clock::time_point start = Clock::now();
  llama_model* model = llama_model_load_from_file(argv[2], llama_model_default_params());
  if (model == nullptr) return 1;
  const double load = seconds_since(start);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(prefill + generate + 64);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(prefill > 0 ? prefill : 512);
  params.n_threads = params.n_threads_batch = threads;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;

  std::vector<llama_token> prompt(static_cast<size_t>(prefill));
  for (size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<llama_token>((i * 7919 + 13) % kVocabulary);
  std::vector<double> prefills, generations;
  for (int i = -1; i < repetitions; ++i) {  // the first is not counted
    llama_memory_clear(llama_get_memory(context), true);
    if (prefill > 0) {
      const Clock::time_point begin = Clock::now();
      if (llama_decode(context, llama_batch_get_one(prompt.data(), prefill)) != 0) return 1;
      llama_synchronize(context);
      if (i >= 0) prefills.push_back(prefill / seconds_since(begin));
      llama_memory_clear(llama_get_memory(context), true);
    }
    llama_token token = 1;
    const Clock::time_point begin = Clock::now();
    for (int n = 0; n < generate; ++n) {
      if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0) return 1;
      llama_synchronize(context);
      token = (token * 31 + 7) % kVocabulary;
    }
    if (i >= 0 && generate > 0) generations.push_back(generate / seconds_since(begin));
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("{\"load_seconds\": %.3f, \"peak_memory_bytes\": %lld", load,
              static_cast<long long>(usage.ru_maxrss) * 1024);
  print_rates("prefill", prefills);
  print_rates("generate", generations);
  std::printf("}\n");
  return 0;
}

int batch(char** argv) {
  const int threads = std::atoi(argv[4]), sequences = std::atoi(argv[5]), prefill = std::atoi(argv[6]);
  const int generate = std::atoi(argv[7]), repetitions = std::atoi(argv[8]);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all_from_path(argv[3]);
  llama_model* model = llama_model_load_from_file(argv[2], llama_model_default_params());
  if (model == nullptr) return 1;
  llama_context_params params = llama_context_default_params();
  params.n_seq_max = static_cast<uint32_t>(sequences);
  params.n_ctx = static_cast<uint32_t>(sequences * (prefill + generate + 64));
  params.n_batch = params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = threads;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;

  llama_batch step = llama_batch_init(512, 0, 1);
  const auto add = [&](llama_token token, llama_pos position, llama_seq_id sequence, bool logits) {
    const int at = step.n_tokens++;
    step.token[at] = token;
    step.pos[at] = position;
    step.n_seq_id[at] = 1;
    step.seq_id[at][0] = sequence;
    step.logits[at] = logits ? 1 : 0;
  };
  const auto some_token = [](int number) {
    return static_cast<llama_token>((number * 7919 + 13) % kVocabulary);
  };
  std::vector<double> generations;
  for (int i = -1; i < repetitions; ++i) {  // the first is not counted
    llama_memory_clear(llama_get_memory(context), true);
    for (int sequence = 0; sequence < sequences; ++sequence)
      for (int at = 0; at < prefill;) {
        step.n_tokens = 0;
        while (at < prefill && step.n_tokens < 512) {
          add(some_token(sequence * prefill + at), at, sequence, at + 1 == prefill);
          ++at;
        }
        if (llama_decode(context, step) != 0) return 1;
      }
    llama_synchronize(context);
    const Clock::time_point begin = Clock::now();
    for (int n = 0; n < generate; ++n) {
      step.n_tokens = 0;
      for (int sequence = 0; sequence < sequences; ++sequence)
        add(some_token(n * sequences + sequence), prefill + n, sequence, true);
      if (llama_decode(context, step) != 0) return 1;
      llama_synchronize(context);
    }
    if (i >= 0) generations.push_back(sequences * generate / seconds_since(begin));
  }
  std::printf("{\"sequences\": %d", sequences);
  print_rates("generate", generations);
  std::printf("}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], "make") == 0) return make(argv[2], argv[3]);
  if (argc == 8 && std::strcmp(argv[1], "run") == 0) return run(argv);
  if (argc == 9 && std::strcmp(argv[1], "batch") == 0) return batch(argv);
  std::fprintf(stderr, "usage: %s make TYPE FILE | run FILE LIBRARIES THREADS PREFILL GENERATE REPETITIONS\n",
               argv[0]);
  return 2;
}
