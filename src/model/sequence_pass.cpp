// SPDX-License-Identifier: Apache-2.0
#include "model/sequence_pass.h"

#include <algorithm>

#include "base/fail.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "model/lead.h"
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
                           KvCacheType type, std::shared_ptr<PagePool> pool)
    : model_(model) {
  expect_not_led(model);
  const ModelConfig& config = model.config();
  check(config, sequences);
  if (!pool) pool = one_layer_pages(model, type);
  int64_t longest = 1;
  for (const auto& tokens : sequences) longest = std::max(longest, static_cast<int64_t>(tokens.size()));
  SequenceTables& tables = *state_of(model).tables;
  rope_ = tables.rope(config, LayerRope::kMain, longest);
  local_rope_ = tables.rope(config, LayerRope::kLocal, longest);
  if (rope_) rope_->reserve(longest);
  if (local_rope_) local_rope_->reserve(longest);
  // A chunk's keys and values are of no use to the next: a cache serves one sequence of every chunk. They
  // must not move.
  caches_.reserve(std::min(sequences.size(), static_cast<size_t>(kMaxRows)));
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::span<const int32_t> tokens = sequences[s];
    const auto count = static_cast<int64_t>(tokens.size());
    if (chunks_.empty() || chunks_.back().rows + count > kMaxRows) chunks_.emplace_back();
    const size_t place = chunks_.back().segments.size();
    if (place == caches_.size()) caches_.emplace_back(type, pool);
    caches_[place].reserve(0, count);
    for (int64_t at = 0; at < count; at += kMaxRows) {
      if (at > 0) chunks_.emplace_back();
      const int64_t rows = std::min(kMaxRows, count - at);
      chunks_.back().add(
          {.cache = &caches_[place], .rope = rope_.get(), .local_rope = local_rope_.get(), .position = at},
          tokens.subspan(static_cast<size_t>(at), static_cast<size_t>(rows)),
          {.entry = s, .token = at, .last = at + rows == count, .logits = WantedLogits::kAll});
    }
    rows_ += count;
  }
}

void SequencePass::embed(LayerExecutor& executor, size_t chunk, const BufferRows& x) const {
  executor.embed(chunks_[chunk].runs, x);
  executor.settle();
}

void SequencePass::layer(LayerExecutor& executor, int64_t layer, const LayerWeights& weights, size_t chunk,
                         const BufferRows& x) const {
  executor.layer(layer, weights, chunks_[chunk].segments, x, 0);
  executor.settle();
}

void SequencePass::logits(LayerExecutor& executor, size_t chunk, const BufferRows& x,
                          const LogitsVisitor& visitor) const {
  visit_logits(executor, model_.config(), chunks_[chunk], x,
               [&](size_t segment, int64_t row, std::span<const float> values) {
                 const SegmentSource& source = chunks_[chunk].sources[segment];
                 visitor(source.entry, source.token + row, values);
               });
}

void SequencePass::embed(LayerExecutor& executor, const BufferRows& x) const {
  over_chunks(x, [&](size_t chunk, const BufferRows& rows) { executor.embed(chunks_[chunk].runs, rows); });
  executor.settle();
}

void SequencePass::layer(LayerExecutor& executor, int64_t layer, const LayerWeights& weights,
                         const BufferRows& x) const {
  over_chunks(x, [&](size_t chunk, const BufferRows& rows) {
    executor.layer(layer, weights, chunks_[chunk].segments, rows, 0);
  });
  executor.settle();
}

void SequencePass::logits(LayerExecutor& executor, const BufferRows& x, const LogitsVisitor& visitor) const {
  over_chunks(x, [&](size_t chunk, const BufferRows& rows) { logits(executor, chunk, rows, visitor); });
}

std::shared_ptr<PagePool> one_layer_pages(const Model& model, KvCacheType type) {
  const std::shared_ptr<Device>& device = state_of(model).device;
  CacheShape one = cache_shape(model.config(), kernel_type(type));
  one.layers = 1;
  return std::make_shared<PagePool>(one, 0, device);
}

namespace {

RunOptions run_options(const Model& model, const SessionOptions& options,
                       const std::function<bool()>& cancelled) {
  return {.precision = options.precision.value_or(model.options().precision),
          .many_rows_precision =
              options.precision ? options.many_rows_precision : model.options().many_rows_precision,
          .threads = thread_count(options.threads != 0 ? options.threads : model.options().threads),
          .expect_finite = options.expect_finite,
          .cancelled = cancelled ? &cancelled : nullptr};
}

}  // namespace

SequenceRunner::SequenceRunner(const Model& model, const SessionOptions& options)
    : model_(model),
      cancelled_(options.cancelled),
      options_(run_options(model, options, cancelled_)),
      type_(resolved_cache(options.kv_cache, options_.precision)),
      pool_(one_layer_pages(model, type_)) {}

void SequenceRunner::run(std::span<const std::span<const int32_t>> sequences, const LogitsVisitor& visitor) {
  if (sequences.empty()) return;
  const SequencePass pass(model_, sequences, type_, pool_);
  const ModelConfig& config = model_.config();
  workspace_.reserve(state_of(model_), std::min(pass.rows(), kMaxRows));
  LayerExecutor executor(state_of(model_), workspace_, options_);
  if (hidden_.count() < pass.rows()) {
    hidden_ = OwnedRows();
    hidden_ = OwnedRows(workspace_.engine, pass.rows(), config.hidden);
  }
  const BufferRows& x = hidden_.all();
  pass.embed(executor, x);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    pass.layer(executor, layer, *state_of(model_).layer(layer), x);
  pass.logits(executor, x, visitor);
}

void forward_sequences(const Model& model, std::span<const std::span<const int32_t>> sequences,
                       const SessionOptions& options, const LogitsVisitor& visitor) {
  SequenceRunner(model, options).run(sequences, visitor);
}

}  // namespace nfloat
