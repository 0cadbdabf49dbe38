// SPDX-License-Identifier: Apache-2.0
#include "model/sequence_pass.h"

#include <algorithm>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

void check(const ModelConfig& config, std::span<const std::span<const int32_t>> sequences) {
  for (size_t s = 0; s < sequences.size(); ++s) {
    if (sequences[s].empty()) fail(ErrorCode::kInvalidArgument, "sequence {} has no tokens", s);
    const auto longest = largest_context(config);
    if (static_cast<int64_t>(sequences[s].size()) > longest)
      fail(ErrorCode::kInvalidArgument, "sequence {} has {} tokens: this model allows 1 to {}", s,
           sequences[s].size(), longest);
    for (size_t i = 0; i < sequences[s].size(); ++i)
      if (sequences[s][i] < 0 || sequences[s][i] >= config.vocabulary)
        fail(ErrorCode::kInvalidArgument, "token {} of sequence {} is {}, expected 0 to {}", i, s,
             sequences[s][i], config.vocabulary - 1);
  }
}

}  // namespace

SequencePass::SequencePass(const Model& model, std::span<const std::span<const int32_t>> sequences,
                           KvCacheType type)
    : model_(model) {
  const ModelConfig& config = model.config();
  check(config, sequences);
  ModelConfig one = config;
  one.layers = 1;
  const auto pool = std::make_shared<PagePool>(static_cast<size_t>(kv_page_bytes(one, kernel_type(type))), 0);
  int64_t longest = 1;
  for (const auto& tokens : sequences) longest = std::max(longest, static_cast<int64_t>(tokens.size()));
  SequenceTables& tables = *model.state().tables;
  rope_ = tables.rope(config, LayerRope::kMain, longest);
  local_rope_ = tables.rope(config, LayerRope::kLocal, longest);
  if (rope_) rope_->reserve(longest);
  if (local_rope_) local_rope_->reserve(longest);
  caches_.reserve(sequences.size());
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::span<const int32_t> tokens = sequences[s];
    const auto count = static_cast<int64_t>(tokens.size());
    caches_.emplace_back(config, type, pool);
    caches_.back().reserve(0, count);
    if (chunks_.empty() || chunks_.back().rows + count > kMaxRows) chunks_.emplace_back();
    for (int64_t at = 0; at < count; at += kMaxRows) {
      if (at > 0) chunks_.emplace_back();
      const int64_t rows = std::min(kMaxRows, count - at);
      chunks_.back().add(
          {.cache = &caches_.back(), .rope = rope_.get(), .local_rope = local_rope_.get(), .position = at},
          tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(rows)),
          {.entry = s, .token = at, .last = at + rows == count, .logits = WantedLogits::kAll});
    }
    rows_ += count;
  }
}

void SequencePass::embed(LayerExecutor& executor, float* x) const {
  over_chunks(x, [&](const Chunk& chunk, float* rows) { executor.embed(chunk.runs, rows); });
}

void SequencePass::layer(LayerExecutor& executor, int64_t layer, const LayerWeights& weights,
                         float* x) const {
  over_chunks(
      x, [&](const Chunk& chunk, float* rows) { executor.layer(layer, weights, chunk.segments, rows, 0); });
}

void SequencePass::logits(LayerExecutor& executor, float* x, const LogitsVisitor& visitor) const {
  std::vector<float> logits;
  over_chunks(x, [&](const Chunk& chunk, float* rows) {
    visit_logits(executor, model_.config(), chunk, rows, logits,
                 [&](size_t segment, int64_t row, std::span<const float> values) {
                   const SegmentSource& source = chunk.sources[segment];
                   visitor(source.entry, source.token + row, values);
                 });
  });
}

void forward_sequences(const Model& model, std::span<const std::span<const int32_t>> sequences,
                       const SessionOptions& options, const LogitsVisitor& visitor) {
  if (sequences.empty()) return;
  const Precision precision = options.precision.value_or(model.options().precision);
  const KvCacheType type = resolved_cache(options.kv_cache, precision);
  const SequencePass pass(model, sequences, type);
  const ModelConfig& config = model.config();
  Workspace workspace;
  const int threads = thread_count(options.threads != 0 ? options.threads : model.options().threads);
  workspace.reserve(config, std::min(pass.rows(), kMaxRows), threads);
  LayerExecutor executor(
      model.state(), workspace,
      {.precision = precision, .threads = threads, .expect_finite = options.expect_finite});
  Buffer hidden(static_cast<size_t>(pass.rows() * config.hidden) * sizeof(float));
  auto* x = reinterpret_cast<float*>(hidden.data());
  pass.embed(executor, x);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    pass.layer(executor, layer, *model.state().layer(layer), x);
  pass.logits(executor, x, visitor);
}

}  // namespace nfloat
