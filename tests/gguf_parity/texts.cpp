// SPDX-License-Identifier: Apache-2.0
// A trained model and real tokenizers.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "checkpoint/safetensors_writer.h"
#include "llama_cpp.h"
#include "nfloat/bridge.h"
#include "nfloat/evaluate.h"
#include "nfloat/tokenizer.h"
#include "parity.h"
#include "support/files.h"
#include "support/paths.h"

namespace judge {
namespace {

using namespace nfloat;
namespace fs = std::filesystem;
using nfloat::testing::read_file;

const std::string kTiny = nfloat::testing::source_path("/models/nfloat-tiny");
constexpr int kWindow = 512;

ConvertControl replacing() {
  ConvertControl control;
  control.overwrite = true;
  return control;
}

std::vector<int32_t> own_greedy(const Model& model, const std::vector<int32_t>& prompt, int count) {
  Session session(model, {.context = kWindow, .kv_cache = KvCacheType::kF32, .precision = Precision::kF32});
  std::vector<int32_t> next = prompt, made;
  for (int i = 0; i < count; ++i) {
    const auto logits = session.prefill(next);
    made.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    next = {made.back()};
  }
  return made;
}

// llama.cpp's protocol: windows of 512, the first token replaced by BOS, the second half counts.
double their_perplexity(const LlamaCpp& model, const std::vector<int32_t>& tokens, int32_t bos) {
  double loss = 0;
  int64_t count = 0;
  const auto vocabulary = static_cast<size_t>(model.vocabulary());
  for (size_t begin = 0; begin + kWindow <= tokens.size(); begin += kWindow) {
    std::vector<int32_t> window(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                tokens.begin() + static_cast<std::ptrdiff_t>(begin + kWindow));
    window[0] = bos;
    const std::vector<float> logits = model.logits(window);
    for (size_t i = kWindow / 2; i + 1 < kWindow; ++i) {
      const float* row = logits.data() + i * vocabulary;
      const float most = *std::max_element(row, row + vocabulary);
      double sum = 0;
      for (size_t k = 0; k < vocabulary; ++k) sum += std::exp(static_cast<double>(row[k] - most));
      loss += std::log(sum) - static_cast<double>(row[window[i + 1]] - most);
      ++count;
    }
  }
  return std::exp(loss / static_cast<double>(count));
}

double distance(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, power = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(found[i]) - e;
    difference += d * d;
    power += e * e;
  }
  return std::sqrt(difference / power);
}

std::vector<float> own_logits(const std::string& path, const std::vector<int32_t>& tokens) {
  const Model model = Model::load(path, {.precision = Precision::kF32});
  Session session(model, {.context = kWindow, .kv_cache = KvCacheType::kF32, .precision = Precision::kF32});
  std::vector<float> rows;
  const BatchEntry entry{&session, tokens};
  forward_batch({&entry, 1}, [&](size_t, int64_t, std::span<const float> logits) {
    rows.insert(rows.end(), logits.begin(), logits.end());
  });
  return rows;
}

}  // namespace

namespace {

// One model as this library has it and as a GGUF file: greedy continuations, and perplexity of tokens that
// each side made itself.
int compare_model(const char* name, const std::string& model, const std::string& file) {
  const Tokenizer tokenizer = Tokenizer::load(model);
  const Model own = Model::load(model, {.precision = Precision::kF32});
  const LlamaCpp theirs(file, kWindow);
  constexpr int kCount = 100;
  int same = 0, prompts = 0;
  for (const char* prompt : {"Once upon a time", "The king sat on his throne", "She looked at the sea",
                             "It was a dark night,", "\"Where are you going?\" said"}) {
    const std::vector<int32_t> ids = tokenizer.encode(prompt);
    same += own_greedy(own, ids, kCount) == theirs.greedy(ids, kCount) ? 1 : 0;
    ++prompts;
  }
  const std::string text = read_file(kTiny + "/stories.txt");
  const double there = their_perplexity(theirs, theirs.tokenize(text, true), *tokenizer.bos_id());
  const double here = perplexity(own, tokenizer.encode(text, {.add_special_tokens = true}),
                                 {.protocol = PerplexityProtocol::kLlamaCpp, .context = kWindow})
                          .perplexity;
  const bool good = same == prompts && std::fabs(there / here - 1) <= 1e-3;
  std::printf(
      "%s: %d of %d greedy continuations of %d tokens are the same,\n"
      "perplexity %.4f here, %.4f there (%+.4f %%)%s\n",
      name, same, prompts, kCount, here, there, 100 * (there / here - 1), good ? "" : "  FAILED");
  return good ? 0 : 1;
}

}  // namespace

int compare_tiny(const std::string& folder) {
  const std::string nf4 = folder + "/tiny-nf4", file = folder + "/tiny.gguf";
  const std::string plain = folder + "/tiny-f32.gguf", quantized = folder + "/tiny-quantized.gguf";
  quantize_checkpoint(Checkpoint(kTiny), nf4, {}, replacing());
  write_gguf(Checkpoint(nf4), file, {.type = GgufType::kF32, .check = true}, replacing());
  write_gguf(Checkpoint(kTiny), plain, {.type = GgufType::kF32, .check = true}, replacing());
  int failures = compare_model("nfloat-tiny, to GGUF F32", kTiny, plain);
  failures += compare_model("nfloat-tiny in NF4, to GGUF F32", nf4, file);

  const Tokenizer tokenizer = Tokenizer::load(kTiny);
  const std::vector<int32_t> text =
      tokenizer.encode(read_file(kTiny + "/stories.txt").substr(0, 4000), false);
  std::printf("nfloat-tiny as llama.cpp quantizes it, logits of 64 tokens here in F32 and there\n");
  std::vector<int32_t> tokens(text.begin(), text.begin() + 63);
  tokens.insert(tokens.begin(), *tokenizer.bos_id());
  constexpr double kMost = 2e-2;
  for (const char* type : {"q4_0", "iq4_nl", "q4_K", "q8_0"}) {
    quantize(plain, quantized, type);
    const double found = distance(own_logits(quantized, tokens), LlamaCpp(quantized, kWindow).logits(tokens));
    std::printf("%-10s %9.2e  (at most %.0e)%s\n", type, found, kMost, found <= kMost ? "" : "  FAILED");
    failures += found <= kMost ? 0 : 1;
  }
  return failures;
}

namespace {

// A model of one layer around a tokenizer, for its file.
void make_folder(const std::string& path, const std::string& tokenizer, int64_t vocabulary) {
  fs::remove_all(path);
  fs::create_directories(path);
  for (const auto& entry : fs::directory_iterator(tokenizer)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("tokenizer.json") || name.starts_with("tokenizer_config") ||
        name == "tokenizer.model")
      fs::copy_file(entry.path(), fs::path(path) / name);
  }
  nfloat::testing::write_file(
      path + "/config.json",
      R"({"model_type": "llama", "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1,
          "num_attention_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": true, "vocab_size": )" +
          std::to_string(vocabulary) + "}");
  const std::string layer = "model.layers.0.";
  std::vector<SafetensorsWriter::Declared> tensors = {
      {"model.embed_tokens.weight", DType::kF32, {vocabulary, 4}}, {"model.norm.weight", DType::kF32, {4}}};
  for (const char* name : {"input_layernorm", "post_attention_layernorm"})
    tensors.push_back({layer + name + ".weight", DType::kF32, {4}});
  for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"})
    tensors.push_back({layer + name + ".weight", DType::kF32, {4, 4}});
  for (const char* name : {"mlp.gate_proj", "mlp.up_proj"})
    tensors.push_back({layer + name + ".weight", DType::kF32, {2, 4}});
  tensors.push_back({layer + "mlp.down_proj.weight", DType::kF32, {4, 2}});
  SafetensorsWriter writer(path + "/model.safetensors", tensors, {});
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<float> zeros(static_cast<size_t>(tensors[i].shape.elements()));
    writer.write(i, 0, std::as_bytes(std::span(zeros)));
  }
  writer.finish();
  writer.commit();
}

// Where two lists of ids part: their lengths when they do not.
size_t first_difference(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  return i;
}

}  // namespace

int compare_tokenizers(const std::string& folder) {
  const std::string shared = nfloat::testing::shared_path("");
  if (!fs::exists(shared + "/text")) {
    std::printf("tokenizers: no shared texts here\n");
    return 0;
  }
  constexpr size_t kMostBytes = 3'000'000;  // of a file
  std::vector<fs::path> texts;
  for (const auto& entry : fs::recursive_directory_iterator(shared + "/text"))
    if (entry.is_regular_file() && entry.path().extension() != ".xz") texts.push_back(entry.path());
  std::sort(texts.begin(), texts.end());
  int failures = 0;
  const struct {
    const char* name;
    std::string path;
    int64_t vocabulary;
  } kTokenizers[] = {{"nfloat-tiny", kTiny, 4096},
                     {"stories260K", shared + "/models/stories260K", 512},
                     {"llama2-32k", shared + "/tokenizers/llama2-32k", 32000},
                     {"gpt2", shared + "/tokenizers/gpt2", 50257},
                     {"smollm2", shared + "/tokenizers/smollm2", 49152},
                     {"llama3", shared + "/tokenizers/llama3", 128256},
                     {"qwen3", shared + "/tokenizers/qwen3", 151936}};
  std::printf("ids of %zu texts: Hugging Face's file read here, the GGUF file read here, llama.cpp\n",
              texts.size());
  for (const auto& one : kTokenizers) {
    const std::string model = folder + "/tokenizer", file = folder + "/tokenizer.gguf";
    make_folder(model, one.path, one.vocabulary);
    const BridgeResult result = write_gguf(Checkpoint(model), file, {}, replacing());
    for (const std::string& note : result.notes) std::printf("%s: %s\n", one.name, note.c_str());
    const Tokenizer right = Tokenizer::load(model), back = Tokenizer::load(file);
    const LlamaCpp theirs(file, 0, true);
    size_t tokens = 0, back_differs = 0, texts_differ = 0;
    std::string shown;
    for (const fs::path& path : texts) {
      const std::string text = read_file(path).substr(0, kMostBytes);
      const std::vector<int32_t> expected = right.encode(text, {.add_special_tokens = true});
      tokens += expected.size();
      if (back.encode(text, {.add_special_tokens = true}) != expected) ++back_differs;
      const std::vector<int32_t> found = theirs.tokenize(text, true);
      if (found == expected) continue;
      ++texts_differ;
      if (!shown.empty()) continue;
      const size_t at = first_difference(found, expected);
      const auto piece = [&](const std::vector<int32_t>& ids) {
        std::string joined;
        for (size_t i = at; i < std::min(ids.size(), at + 4); ++i)
          joined.append(1, '[').append(right.token_text(ids[i])).append(1, ']');
        return joined;
      };
      shown = path.filename().string() + ", token " + std::to_string(at) + ": " + piece(expected) +
              " here, " + piece(found) + " there";
    }
    const bool good = back_differs == 0 && texts_differ == 0;
    std::printf("%-12s %9zu tokens, %zu texts differ from the GGUF file, %zu from llama.cpp%s%s%s\n",
                one.name, tokens, back_differs, texts_differ, shown.empty() ? "" : "\n    ", shown.c_str(),
                good ? "" : "  FAILED");
    failures += good ? 0 : 1;
  }
  return failures;
}

}  // namespace judge
