// SPDX-License-Identifier: Apache-2.0
// tokenizer libllama.so FOLDER TOKENIZER.MODEL TEXT...: writes SentencePiece vocabularies into FOLDER as GGUF
// files, as converters do, and compares nfloat's ids of every text and of every line with llama_tokenize's.
// Exit status 1 at the first difference.
#include <dlfcn.h>
#include <llama.h>
#include <sentencepiece_processor.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "nfloat/tokenizer.h"

namespace {

using Ids = std::vector<int32_t>;

enum Type : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Vocabulary {
  std::string name;
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  bool space_prefix = true;
  void add(const std::string& text, Type type, float score = -1000) {
    texts.push_back(text);
    scores.push_back(score);
    types.push_back(type);
  }
};

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string& out, const std::string& text) {
  put<uint64_t>(out, text.size());
  out += text;
}

// The file holds no tensors; llama.cpp reads its vocabulary alone.
std::string gguf(const Vocabulary& words) {
  std::string values;
  uint64_t count = 0;
  const auto key = [&](const std::string& name, uint32_t type) {
    put_text(values, name);
    put(values, type);
    ++count;
  };
  const auto text = [&](const std::string& name, const std::string& value) {
    key(name, 8);
    put_text(values, value);
  };
  const auto number = [&](const std::string& name, uint32_t value) {
    key(name, 4);
    put(values, value);
  };
  const auto list = [&](const std::string& name, uint32_t type) {
    key(name, 9);
    put(values, type);
    put<uint64_t>(values, words.texts.size());
  };
  text("general.architecture", "llama");
  text("general.name", words.name);
  for (const char* name : {"context_length", "embedding_length", "block_count", "feed_forward_length"})
    number(std::string("llama.") + name, 64);
  number("llama.attention.head_count", 4);
  key("llama.attention.layer_norm_rms_epsilon", 6);
  put(values, 1e-5f);
  text("tokenizer.ggml.model", "llama");
  list("tokenizer.ggml.tokens", 8);
  for (const std::string& one : words.texts) put_text(values, one);
  list("tokenizer.ggml.scores", 6);
  for (const float one : words.scores) put(values, one);
  list("tokenizer.ggml.token_type", 5);
  for (const int32_t one : words.types) put(values, one);
  number("tokenizer.ggml.bos_token_id", 1);
  number("tokenizer.ggml.eos_token_id", 2);
  number("tokenizer.ggml.unknown_token_id", 0);
  key("tokenizer.ggml.add_space_prefix", 7);
  values += words.space_prefix ? '\1' : '\0';
  std::string out = "GGUF";
  put<uint32_t>(out, 3);
  put<uint64_t>(out, 0);
  put(out, count);
  out += values;
  out.resize((out.size() + 31) / 32 * 32);
  return out;
}

// Converters call every special token CONTROL, <unk> too.
Vocabulary converted(const sentencepiece::SentencePieceProcessor& model) {
  Vocabulary words;
  words.name = "Llama";
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    const bool special = model.IsUnknown(id) || model.IsControl(id);
    words.add(model.IdToPiece(id),
              special              ? kControl
              : model.IsByte(id)   ? kByte
              : model.IsUnused(id) ? kUnused
                                   : kNormal,
              model.GetScore(id));
  }
  return words;
}

std::vector<Vocabulary> variants(const sentencepiece::SentencePieceProcessor& model) {
  const Vocabulary plain = converted(model);
  Vocabulary chat = plain, gemma = plain, phi = plain;
  for (const char* text : {"<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"}) chat.add(text, kControl);
  for (const char* text : {"<|tool|>", "tool|><", "\n\n", "the "}) chat.add(text, kUserDefined);
  gemma.space_prefix = false;
  for (int spaces = 2; spaces <= 31; ++spaces)
    gemma.add(std::string(static_cast<size_t>(spaces), ' '), kUserDefined);
  for (const char* text : {"<start_of_turn>", "<end_of_turn>"}) gemma.add(text, kControl);
  for (const char* text : {"<table>", "</b>", "\t\t", "\n\n"}) gemma.add(text, kUserDefined);
  phi.name = "Phi-3-mini";
  for (const char* text : {"<|user|>", "<|end|>", "<|assistant|>", "<|endoftext|>"}) phi.add(text, kControl);
  for (int i = 0; i < 53; ++i) phi.add("[PAD" + std::to_string(i) + "]", kUnknown);
  return {plain, chat, gemma, phi};
}

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <typename Function>
Function* symbol(void* library, const char* name) {
  void* const found = ::dlsym(library, name);
  if (found == nullptr) {
    std::fprintf(stderr, "no %s in the library\n", name);
    std::exit(1);
  }
  return reinterpret_cast<Function*>(found);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  void* const library = ::dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", ::dlerror());
    return 1;
  }
  const auto tokenize = symbol<decltype(llama_tokenize)>(library, "llama_tokenize");
  symbol<decltype(llama_log_set)>(library, "llama_log_set")([](ggml_log_level, const char*, void*) {},
                                                            nullptr);
  sentencepiece::SentencePieceProcessor model;
  if (!model.Load(argv[3]).ok()) return 1;
  std::vector<std::string> texts = {"",
                                    " ",
                                    "  a  b   ",
                                    "<|im_start|>user\nHi <|tool|><x<|im_end|>\n\n",
                                    "<|user|>\n  Hi there<|end|>\n<|assistant|>",
                                    "if x:\n        return  </b>\t\t\t<table>",
                                    "日本語 😀 é \xE2\x96\x81 ▁▁x",
                                    "<unk><s></s>[PAD1][PAD12]<0x41>"};
  for (int i = 4; i < argc; ++i) {
    const std::string text = read(argv[i]);
    texts.push_back(text);
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
      texts.push_back(text.substr(at, end - at));
      at = end;
    }
  }
  int64_t tokens = 0;
  int number = 0;
  for (const Vocabulary& words : variants(model)) {
    const std::string path = std::string(argv[2]) + "/vocabulary" + std::to_string(number++) + ".gguf";
    std::ofstream(path, std::ios::binary) << gguf(words);
    llama_model_params params =
        symbol<decltype(llama_model_default_params)>(library, "llama_model_default_params")();
    params.vocab_only = true;
    llama_model* const peer = symbol<decltype(llama_model_load_from_file)>(
        library, "llama_model_load_from_file")(path.c_str(), params);
    if (peer == nullptr) {
      std::fprintf(stderr, "llama.cpp does not load %s\n", path.c_str());
      return 1;
    }
    const llama_vocab* const vocab =
        symbol<decltype(llama_model_get_vocab)>(library, "llama_model_get_vocab")(peer);
    const nfloat::Tokenizer own = nfloat::Tokenizer::load(path);
    for (const std::string& text : texts) {
      Ids expected(text.size() + 8);
      const int32_t count = tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), expected.data(),
                                     static_cast<int32_t>(expected.size()), true, true);
      expected.resize(static_cast<size_t>(std::max(count, 0)));
      const Ids got = own.encode(text);
      tokens += count;
      if (got == expected) continue;
      size_t at = 0;
      while (at < std::min(got.size(), expected.size()) && got[at] == expected[at]) ++at;
      std::fprintf(stderr, "%s: token %zu of \"%.200s\": %d, llama.cpp has %d\n", path.c_str(), at,
                   text.c_str(), at < got.size() ? got[at] : -1, at < expected.size() ? expected[at] : -1);
      return 1;
    }
  }
  std::printf("%d vocabularies, %zu texts, %lld tokens: no difference\n", number, texts.size(),
              static_cast<long long>(tokens));
  return 0;
}
