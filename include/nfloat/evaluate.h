// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_H_
#define NFLOAT_EVALUATE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"

namespace nfloat {

// How a text is cut into windows and which tokens count. The model forgets everything between two windows.
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

struct PerplexityOptions {
  PerplexityProtocol protocol = PerplexityProtocol::kPaper;
  int64_t context = 0;     // 0: 512 for kLlamaCpp, else 2048, but no more than the model's own
  int32_t bos_token = -1;  // -1: the model's
  KvCacheType kv_cache = KvCacheType::kAuto;
  std::optional<Precision> precision = std::nullopt;  // unset: the model's
  // Called after each window with tokens scored, tokens to score in all, and the perplexity so far; may throw
  // to cancel.
  std::function<void(int64_t, int64_t, double)> progress = nullptr;
};

struct PerplexityResult {
  int64_t tokens = 0;  // that count
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

// Of separate sequences, each token after the first of its own. `options`: kv_cache and progress only.
NFLOAT_API PerplexityResult perplexity_of_sequences(const Model& model,
                                                    std::span<const std::vector<int32_t>> sequences,
                                                    const PerplexityOptions& options = {});

// How far the token distributions of `model` are from those of `reference`, over the tokens that the protocol
// counts.
struct DivergenceResult {
  int64_t tokens = 0;
  double mean_kl = 0;  // of D(reference || model), in nats a token
  double median_kl = 0;
  double kl_99 = 0;  // 99 % of the tokens are at or below
  double max_kl = 0;
  double same_top = 0;  // share of tokens with the same most likely token
  PerplexityResult reference;
  PerplexityResult model;
};

// The two may be one model, told apart by their precisions.
NFLOAT_API DivergenceResult divergence(const Model& reference, const Model& model,
                                       std::span<const int32_t> tokens, const PerplexityOptions& options = {},
                                       std::optional<Precision> reference_precision = std::nullopt);

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_H_
