// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "evaluate/windows.h"
#include "nfloat/evaluate.h"
#include "nfloat/sampler.h"

namespace nfloat {
namespace {

// Windows that go through the model together hold about this many tokens.
constexpr size_t kBatchTokens = 512;

class LossMean {
 public:
  void add(double loss) noexcept {
    ++count_;
    sum_ += loss;
    squares_ += loss * loss;
  }
  double perplexity() const noexcept { return std::exp(sum_ / static_cast<double>(count_)); }
  int64_t count() const noexcept { return count_; }

  PerplexityResult result(size_t windows) const noexcept {
    PerplexityResult result;
    const auto count = static_cast<double>(count_);
    result.tokens = count_;
    result.windows = static_cast<int64_t>(windows);
    result.mean_loss = sum_ / count;
    result.perplexity = perplexity();
    if (count_ > 1) {
      const double variance = std::max(0.0, squares_ / count - result.mean_loss * result.mean_loss);
      result.standard_error = std::sqrt(variance / (count - 1));
    }
    return result;
  }

 private:
  int64_t count_ = 0;
  double sum_ = 0;
  double squares_ = 0;
};

PerplexityOptions resolved(const Model& model, PerplexityOptions options) {
  const ModelConfig& config = model.config();
  if (options.context == 0)
    options.context =
        std::min<int64_t>(options.protocol == PerplexityProtocol::kLlamaCpp ? 512 : 2048, config.context);
  if (options.context < 2 || options.context > config.context)
    fail(ErrorCode::kInvalidArgument, "windows of {} tokens: this model allows 2 to {}", options.context,
         config.context);
  if (options.bos_token < 0) options.bos_token = config.bos_token;
  return options;
}

int64_t tokens_to_score(std::span<const Window> windows) noexcept {
  int64_t total = 0;
  for (const Window& window : windows) total += window.scored();
  return total;
}

SessionOptions session_options(const PerplexityOptions& options) {
  return {.context = 1, .kv_cache = options.kv_cache, .precision = options.precision};
}

// Sessions of one model, one a window of a batch.
class Scorer {
 public:
  Scorer(const Model& model, std::span<const Window> windows, const SessionOptions& options)
      : model_(model), options_(options) {
    for (const Window& window : windows)
      options_.context = std::max(options_.context, static_cast<int64_t>(window.input.size()));
  }

  // Visits the logits of every input of `windows`; `entry` counts from the first of them.
  void run(std::span<const Window> windows, const LogitsVisitor& visitor) {
    while (sessions_.size() < windows.size()) sessions_.emplace_back(model_, options_);
    std::vector<BatchEntry> entries;
    for (size_t i = 0; i < windows.size(); ++i) {
      sessions_[i].rewind(0);
      entries.push_back({&sessions_[i], windows[i].input});
    }
    forward_batch(entries, visitor);
  }

 private:
  const Model& model_;
  SessionOptions options_;
  std::vector<Session> sessions_;
};

// Calls body(batch of windows) until all are done.
template <typename Body>
void over_batches(std::span<const Window> windows, Body&& body) {
  size_t begin = 0;
  while (begin < windows.size()) {
    size_t end = begin, tokens = 0;
    do tokens += windows[end++].input.size();
    while (end < windows.size() && tokens + windows[end].input.size() <= kBatchTokens);
    body(windows.subspan(begin, end - begin));
    begin = end;
  }
}

PerplexityResult score(const Model& model, std::span<const Window> windows,
                       const PerplexityOptions& options) {
  const int64_t total = tokens_to_score(windows);
  Scorer scorer(model, windows, session_options(options));
  LossMean mean;
  over_batches(windows, [&](std::span<const Window> batch) {
    scorer.run(batch, [&](size_t entry, int64_t index, std::span<const float> logits) {
      const Window& window = batch[entry];
      if (index >= window.first)
        mean.add(-log_probability(logits, window.targets[static_cast<size_t>(index)]));
    });
    if (options.progress) options.progress(mean.count(), total, mean.perplexity());
  });
  return mean.result(windows.size());
}

// D(p || q) of two softmax distributions given by logits, in double.
double kl_divergence(std::span<const float> p, std::span<const float> q) noexcept {
  const double p_total = static_cast<double>(p[0]) - log_probability(p, 0);
  const double q_total = static_cast<double>(q[0]) - log_probability(q, 0);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = static_cast<double>(p[i]) - p_total;
    sum += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - q_total));
  }
  return std::max(0.0, sum);
}

}  // namespace

PerplexityProtocol parse_perplexity_protocol(std::string_view name) {
  if (name == "paper") return PerplexityProtocol::kPaper;
  if (name == "llama.cpp") return PerplexityProtocol::kLlamaCpp;
  if (name == "bos") return PerplexityProtocol::kBos;
  fail(ErrorCode::kInvalidArgument, "the protocol \"{}\" is not one of paper, llama.cpp, bos", name);
}

PerplexityResult perplexity(const Model& model, std::span<const int32_t> tokens,
                            const PerplexityOptions& options) {
  const PerplexityOptions own = resolved(model, options);
  return score(model, cut_windows(tokens, own), own);
}

PerplexityResult perplexity_of_sequences(const Model& model, std::span<const std::vector<int32_t>> sequences,
                                         const PerplexityOptions& options) {
  return score(model, sequence_windows(sequences), options);
}

DivergenceResult divergence(const Model& reference, const Model& model, std::span<const int32_t> tokens,
                            const PerplexityOptions& options, std::optional<Precision> reference_precision) {
  if (reference.config().vocabulary != model.config().vocabulary)
    fail(ErrorCode::kInvalidArgument, "vocabularies of {} and {} tokens have no common distribution",
         reference.config().vocabulary, model.config().vocabulary);
  const PerplexityOptions own = resolved(model, options);
  const std::vector<Window> windows = cut_windows(tokens, own);
  const int64_t total = tokens_to_score(windows);
  SessionOptions reference_options = session_options(own);
  reference_options.precision = reference_precision;
  Scorer reference_scorer(reference, windows, reference_options);
  Scorer model_scorer(model, windows, session_options(own));
  LossMean reference_loss, model_loss;
  std::vector<double> divergences;
  int64_t same_top = 0;
  std::vector<float> kept;
  // One window a time: the reference's logits of a whole window are held.
  for (size_t w = 0; w < windows.size(); ++w) {
    const Window& window = windows[w];
    const std::span<const Window> one(&window, 1);
    kept.clear();
    reference_scorer.run(one, [&](size_t, int64_t index, std::span<const float> logits) {
      if (index >= window.first) kept.insert(kept.end(), logits.begin(), logits.end());
    });
    model_scorer.run(one, [&](size_t, int64_t index, std::span<const float> logits) {
      if (index < window.first) return;
      const std::span<const float> expected = std::span<const float>(kept).subspan(
          static_cast<size_t>(index - window.first) * logits.size(), logits.size());
      const int32_t target = window.targets[static_cast<size_t>(index)];
      reference_loss.add(-log_probability(expected, target));
      model_loss.add(-log_probability(logits, target));
      divergences.push_back(kl_divergence(expected, logits));
      same_top += most_likely(expected) == most_likely(logits);
    });
    if (own.progress) own.progress(model_loss.count(), total, model_loss.perplexity());
  }
  DivergenceResult result;
  result.tokens = model_loss.count();
  for (double divergence : divergences)
    result.mean_kl += divergence / static_cast<double>(divergences.size());
  std::sort(divergences.begin(), divergences.end());
  result.median_kl = divergences[divergences.size() / 2];
  result.kl_99 = divergences[std::min(divergences.size() - 1, divergences.size() * 99 / 100)];
  result.max_kl = divergences.back();
  result.same_top = static_cast<double>(same_top) / static_cast<double>(result.tokens);
  result.reference = reference_loss.result(windows.size());
  result.model = model_loss.result(windows.size());
  return result;
}

}  // namespace nfloat
