// SPDX-License-Identifier: Apache-2.0
#include "base/fail.h"
#include "evaluate/scoring.h"
#include "nfloat/sampler.h"

namespace nfloat {
namespace {

PerplexityResult score(const Model& model, std::span<const Window> windows,
                       const PerplexityOptions& options) {
  const int64_t total = tokens_to_score(windows);
  LossMean mean;
  SequenceRunner runner(model, session_options(options));
  for (const WindowBatch& batch : cut_batches(model, windows)) {
    visit_windows(runner, batch, [&](size_t entry, int64_t index, std::span<const float> logits) {
      const Window& window = batch[entry];
      if (index >= window.first)
        mean.add(-log_probability(logits, window.targets[static_cast<size_t>(index)]));
    });
    if (options.progress) options.progress(mean.count(), total, mean.perplexity());
  }
  return mean.result(windows.size());
}

}  // namespace

PerplexityResult LossMean::result(size_t windows) const noexcept {
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

PerplexityOptions resolved(const Model& model, PerplexityOptions options) {
  const ModelConfig& config = model.config();
  if (options.context == 0)
    options.context =
        std::min<int64_t>(options.protocol == PerplexityProtocol::kLlamaCpp ? 512 : 2048, config.context);
  if (options.context < 2 || options.context > config.context)
    fail(ErrorCode::kInvalidArgument, "windows of {} tokens: this model allows 2 to {}", options.context,
         config.context);
  if (options.bos_token == -1) options.bos_token = config.bos_token;
  return options;
}

int64_t tokens_to_score(std::span<const Window> windows) noexcept {
  int64_t total = 0;
  for (const Window& window : windows) total += window.scored();
  return total;
}

SessionOptions session_options(const PerplexityOptions& options) {
  return {.kv_cache = options.kv_cache,
          .precision = options.precision,
          .expect_finite = true,
          .cancelled = options.cancelled};
}

void visit_windows(SequenceRunner& runner, std::span<const Window> windows, const LogitsVisitor& visitor) {
  std::vector<std::span<const int32_t>> inputs;
  inputs.reserve(windows.size());
  for (const Window& window : windows) inputs.emplace_back(window.input);
  runner.run(inputs, visitor);
}

std::vector<WindowBatch> cut_batches(std::span<const Window> windows, size_t limit) {
  std::vector<WindowBatch> batches;
  size_t begin = 0;
  while (begin < windows.size()) {
    size_t end = begin, tokens = 0;
    do tokens += windows[end++].input.size();
    while (end < windows.size() && tokens + windows[end].input.size() <= limit);
    batches.push_back(windows.subspan(begin, end - begin));
    begin = end;
  }
  return batches;
}

std::vector<WindowBatch> cut_batches(const Model& model, std::span<const Window> windows) {
  constexpr size_t kStreamedBytes = size_t{128} << 20;  // of hidden states
  if (!model.options().stream_layers) return cut_batches(windows);
  const size_t room = kStreamedBytes / (sizeof(float) * static_cast<size_t>(model.config().hidden));
  return cut_batches(windows, std::max(kBatchTokens, room));
}

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

}  // namespace nfloat
