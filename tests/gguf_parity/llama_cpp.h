// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_GGUF_PARITY_LLAMA_CPP_H_
#define NFLOAT_TESTS_GGUF_PARITY_LLAMA_CPP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// llama.cpp from its package, with as much precision as it has: keys and values in F32, attention unfused.
// Its headers stay in llama_cpp.cpp.
namespace judge {

class LlamaCpp {
 public:
  // Loads the best of its CPU libraries, once.
  static void start(const std::string& libraries);

  // `vocabulary_only`: to tokenize. Throws std::runtime_error.
  LlamaCpp(const std::string& path, int context, bool vocabulary_only = false);
  ~LlamaCpp();

  int vocabulary() const;
  // Logits behind every token, one row a token, from an empty context.
  std::vector<float> logits(const std::vector<int32_t>& tokens) const;
  std::vector<int32_t> greedy(std::vector<int32_t> prompt, int count) const;
  std::vector<int32_t> tokenize(std::string_view text, bool specials) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Quantizes a file by its own quantizer: "q4_0", "iq4_nl", "q4_K", "q8_0" for every matrix that the type
// fits.
void quantize(const std::string& from, const std::string& to, const std::string& type);

// Its reference decoder of a type (ggml's number): blocks to `count` floats. False when it has none.
bool decode(uint32_t type, const void* blocks, float* output, int64_t count);
int64_t block_bytes(uint32_t type);
int64_t block_elements(uint32_t type);
// Its quantizer without importances, of whole rows.
void encode(uint32_t type, const float* values, void* output, int64_t rows, int64_t cols);

}  // namespace judge

#endif  // NFLOAT_TESTS_GGUF_PARITY_LLAMA_CPP_H_
