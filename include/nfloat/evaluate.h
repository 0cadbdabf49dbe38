// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_H_
#define NFLOAT_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"

namespace nfloat {

struct StateAccess;  // of the library itself

// How a text is cut into windows and which tokens count. Each window starts with an empty context.
enum class PerplexityProtocol : uint8_t {
  // Non-overlapping windows of `context` tokens, a short last one left out; every token after the first of
  // its
  // window counts. What papers report for WikiText-2, with a context of 2048.
  kPaper,
  // Windows of `context` tokens, a short last one left out; the first token of each replaced by BOS when the
  // model has one; only
  // the tokens after the middle count.
  kLlamaCpp,
  // Every token counts: windows of `context` tokens, the short last one included, each after a BOS.
  kBos,
};

// "paper", "llama.cpp", "bos". Throws kInvalidArgument naming them.
NFLOAT_API PerplexityProtocol parse_perplexity_protocol(std::string_view name);

// Windows of kLlamaCpp begin with their own token.
inline constexpr int32_t kNoBosToken = -2;

struct PerplexityOptions {
  PerplexityProtocol protocol = PerplexityProtocol::kPaper;
  int64_t context = 0;     // 0: 512 for kLlamaCpp, else 2048, but no more than the model's own
  int32_t bos_token = -1;  // -1: the model's; kNoBosToken
  KvCacheType kv_cache = KvCacheType::kAuto;
  std::optional<Precision> precision = std::nullopt;  // unset: the model's
  // Called after each window with tokens scored, tokens to score in all, and the perplexity so far; may throw
  // to cancel.
  std::function<void(int64_t, int64_t, double)> progress = nullptr;
  // Looked at before each layer, so inside of a window; true ends the call with kInterrupted.
  std::function<bool()> cancelled = nullptr;
};

struct PerplexityResult {
  int64_t tokens = 0;  // scored
  int64_t windows = 0;
  double mean_loss = 0;       // negative natural log-likelihood a token
  double standard_error = 0;  // of the mean loss, tokens taken as independent
  double perplexity = 0;      // exp(mean_loss)
  // exp(mean_loss) * standard_error: to first order that of the perplexity.
  double perplexity_error() const noexcept { return perplexity * standard_error; }
};

// Of a text, tokenized without special tokens. Throws kInvalidArgument: too short for one window, kBos
// without a BOS token, a context beyond the model's.
NFLOAT_API PerplexityResult perplexity(const Model& model, std::span<const int32_t> tokens,
                                       const PerplexityOptions& options = {});

// Of separate sequences, each token after the first of its own. `options`: kv_cache, progress, cancelled.
NFLOAT_API PerplexityResult perplexity_of_sequences(const Model& model,
                                                    std::span<const std::vector<int32_t>> sequences,
                                                    const PerplexityOptions& options = {});

// Difference of the token distributions of `model` from those of `reference`, over the tokens that the
// protocol counts: the statistics of llama.cpp's perplexity tool. Standard errors take tokens as independent.
struct DivergenceResult {
  int64_t tokens = 0;
  double mean_kl = 0;  // of D(reference || model), in nats a token
  double mean_kl_error = 0;
  double median_kl = 0;
  double kl_90 = 0, kl_95 = 0, kl_99 = 0, kl_999 = 0;  // 90, 95, 99, 99.9 % of the tokens are at or below
  double max_kl = 0;
  double log_ratio = 0;  // ln(perplexity of the model / of the reference), its error from the paired losses
  double log_ratio_error = 0;
  double correlation = 0;   // of the two models' losses
  double mean_delta_p = 0;  // of the probability of the right token, model - reference
  double mean_delta_p_error = 0;
  double rms_delta_p = 0;
  double rms_delta_p_error = 0;
  double same_top = 0;  // share of tokens with the same most likely token
  double same_top_error = 0;
  PerplexityResult reference;
  PerplexityResult model;
  std::vector<float> token_kl, token_loss;  // of the model, in the order of the text
};

// The two may be one model at two precisions.
NFLOAT_API DivergenceResult divergence(const Model& reference, const Model& model,
                                       std::span<const int32_t> tokens, const PerplexityOptions& options = {},
                                       std::optional<Precision> reference_precision = std::nullopt);

// A reference's distributions over a text in a file, so that each further model costs one run and not two.
// Log-probabilities take 16 bits, in steps of 1/65535 of the token's range (as llama.cpp keeps them): a file
// of 2 bytes for each token that counts and each entry of the vocabulary.
class NFLOAT_API ReferenceDistributions {
 public:
  // Runs `model` and writes the file, whole or not at all. `identity` says what was run (the caller's words).
  // Throws as perplexity() does, kIo naming the path, and kAlreadyExists where the file there is of
  // another kind: only one of distributions, or an empty one, is replaced.
  static void write(const std::string& path, std::string_view identity, const Model& model,
                    std::span<const int32_t> tokens, const PerplexityOptions& options = {});
  static uint64_t file_bytes(int64_t tokens, int64_t vocabulary) noexcept;

  // Throws kNotFound, kIo, kMalformedFile.
  explicit ReferenceDistributions(const std::string& path);
  ReferenceDistributions(ReferenceDistributions&&) noexcept;
  ReferenceDistributions& operator=(ReferenceDistributions&&) noexcept;
  ~ReferenceDistributions();

  const std::string& identity() const noexcept;
  int64_t tokens() const noexcept;
  int64_t vocabulary() const noexcept;

  struct State;

 private:
  friend struct StateAccess;
  std::unique_ptr<State> state_;
};

// The same text and options as the file was made with: throws kInvalidArgument when vocabulary, number of
// tokens or the tokens themselves differ.
NFLOAT_API DivergenceResult divergence(const ReferenceDistributions& reference, const Model& model,
                                       std::span<const int32_t> tokens,
                                       const PerplexityOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_H_
