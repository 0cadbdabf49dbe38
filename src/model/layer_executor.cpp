// SPDX-License-Identifier: Apache-2.0
#include "model/layer_executor.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/finite.h"

namespace nfloat {

class LayerExecutor::Pass {
 public:
  Pass(LayerExecutor& executor, int64_t layer, const LayerWeights& weights, std::span<const Segment> segments,
       const BufferRows& x, int64_t cache_layer)
      : executor_(executor),
        engine_(executor.engine_),
        config_(executor.config_),
        workspace_(executor.workspace_),
        options_(executor.options_),
        watch_{options_.observer, executor.model_.beside.get()},
        layer_(layer),
        kind_(executor.config_.layer(layer)),
        cache_layer_(cache_layer),
        weights_(weights),
        segments_(segments),
        rows_(segments.back().row + segments.back().rows),
        x_(x) {}

  void run() {
    begin_block(weights_.attention_norm);
    if (ends_with(LinearRole::kQueryKeyValue, normed(), config_.hidden)) return;
    multiply(LinearRole::kQueryKeyValue, weights_.query_key_value, normed(), config_.hidden, projected());
    // The attention's largest score may pass over what is not a number.
    executor_.expect_finite(layer_, projected(), rows_, heads_.row(), "a query, key or value");
    normalize_heads();
    attend();
    if (ends_with(LinearRole::kOutput, attended(), config_.query_size())) return;
    multiply(LinearRole::kOutput, weights_.output, attended(), config_.query_size(), added());
    if (config_.parallel_blocks) begin_block(weights_.mlp_norm);
    end_block(weights_.attention_norm, weights_.attention_post_norm);
    executor_.expect_finite(layer_, x_, rows_, config_.hidden, "the hidden state after the attention");
    if (!config_.parallel_blocks) begin_block(weights_.mlp_norm);
    if (!weights_.experts.empty())
      mix();
    else if (ends_with(LinearRole::kGateUp, normed(), config_.hidden) || feed_forward())
      return;
    end_block(weights_.mlp_norm, weights_.mlp_post_norm);
    executor_.expect_finite(layer_, x_, rows_, config_.hidden, "the hidden state after the MLP");
  }

 private:
  const BufferRows& normed() const noexcept { return workspace_.normed.all(); }
  const BufferRows& projected() const noexcept { return workspace_.projected.all(); }
  const BufferRows& attended() const noexcept { return workspace_.attended.all(); }
  const BufferRows& added() const noexcept { return workspace_.added.all(); }
  BufferRows gate_up() const noexcept {
    return {workspace_.gate_up.all().buffer, 0, (config_.gated ? 2 : 1) * config_.intermediate};
  }

  ActivationRows in_host(const BufferRows& rows, int64_t count, int64_t width) {
    return {engine_.read(rows, count, width), rows.stride, count, width};
  }

  // Shows the input of the product with which the pass ends.
  bool ends_with(LinearRole role, const BufferRows& x, int64_t width) {
    if (options_.until != role) return false;
    options_.observer->input({layer_, role}, in_host(x, rows_, width));
    return true;
  }

  void multiply(LinearRole role, const LinearGroup& group, const BufferRows& x, int64_t width,
                const BufferRows& y) {
    executor_.expect_wanted();
    const LinearId id{layer_, role};
    if (watch_.any()) watch_.input(id, in_host(x, rows_, width));
    engine_.multiply(group, x, y, rows_, options_.of_rows(rows_));
    if (watch_.any()) {
      watch_.output(id, in_host(x, rows_, width), engine_.read(y, rows_, group.outputs()), y.stride);
      engine_.write(y, rows_, group.outputs());
    }
    for (size_t first = 0; first < segments_.size();) {  // neighbours with the same adapters go together
      LinearObserver* const beside = segments_[first].beside;
      int64_t rows = 0;
      size_t last = first;
      for (; last < segments_.size() && segments_[last].beside == beside; ++last)
        rows += segments_[last].rows;
      const int64_t row = segments_[first].row;
      if (beside != nullptr) {
        const BufferRows own = y.from(row);
        beside->output(id, in_host(x.from(row), rows, width), engine_.read(own, rows, group.outputs()),
                       own.stride);
        engine_.write(own, rows, group.outputs());
      }
      first = last;
    }
  }

  // Makes `normed` what the block reads.
  void begin_block(const NormWeights& norm) {
    if (config_.norm_place == NormPlace::kAfter || config_.norm_place == NormPlace::kAfterResidual)
      engine_.copy(x_, normed(), rows_, config_.hidden);
    else
      engine_.norm(executor_.norm_step(norm), x_, normed(), rows_);
  }

  // Adds to the residual stream what the block gave.
  void end_block(const NormWeights& norm, const NormWeights& post_norm) {
    const bool after = config_.norm_place == NormPlace::kAfterResidual;
    engine_.add(executor_.norm_step(post_norm), static_cast<float>(config_.residual_scale),
                after ? executor_.norm_step(norm) : NormStep{}, added(), x_, rows_, config_.hidden);
  }

  // True: the pass has ended.
  bool feed_forward() {
    multiply(LinearRole::kGateUp, weights_.gate_up, normed(), config_.hidden, gate_up());
    engine_.activate(activation(config_.intermediate, 0), gate_up(), rows_);
    if (ends_with(LinearRole::kDown, gate_up(), config_.intermediate)) return true;
    multiply(LinearRole::kDown, weights_.down, gate_up(), config_.intermediate, added());
    return false;
  }

  ActivationStep activation(int64_t width, double limit) const noexcept {
    return {config_.activation, config_.gated, static_cast<float>(limit), width};
  }

  void mix() {
    const ExpertsConfig& experts = config_.experts;
    engine_.mix({.layer = layer_,
                 .router = &weights_.router,
                 .experts = weights_.experts,
                 .chosen = experts.chosen,
                 .normalize = experts.normalize,
                 .activation = activation(experts.intermediate, experts.limit),
                 .precision = options_.precision,
                 .many_rows_precision = options_.of_rows(2),
                 .watch = watch_},
                normed(), added(), rows_);
  }

  void normalize_heads() {
    if (config_.query_norm == QueryNorm::kNone) return;
    const auto normalize = [&](const NormWeights& norm, int64_t at, int64_t heads, int64_t stride) {
      NormStep step = executor_.norm_step(norm);
      const bool whole = config_.query_norm == QueryNorm::kWhole;
      step.width = whole ? heads * config_.head_dim : config_.head_dim;
      step.parts = whole ? 1 : heads;
      step.part_stride = stride;
      const BufferRows part{projected().buffer, at, projected().stride};
      engine_.norm(step, part, part, rows_);
    };
    normalize(weights_.query_norm, 0, heads_.heads, heads_.query_stride());
    normalize(weights_.key_norm, heads_.key_at(), heads_.kv_heads, heads_.key_stride());
  }

  void attend() {
    std::vector<SequenceRows>& sequences = workspace_.sequences;
    sequences.clear();
    for (const Segment& segment : segments_)
      sequences.push_back(
          {.cache = segment.cache->view(),
           .angles = segment.rope != nullptr ? segment.rope->angles() : Angles{},
           .local_angles = segment.local_rope != nullptr ? segment.local_rope->angles() : Angles{},
           .row = segment.row,
           .rows = segment.rows,
           .position = segment.position});
    const float scale = config_.attention_scale > 0 ? static_cast<float>(config_.attention_scale)
                                                    : 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    engine_.attend({.heads = heads_,
                    .sequences = sequences,
                    .cache_layer = cache_layer_,
                    .rope = kind_.rope,
                    .scale = scale,
                    .softcap = static_cast<float>(config_.attention_softcap),
                    .window = kind_.window,
                    .sinks = &weights_.sinks},
                   projected(), attended());
  }

  LayerExecutor& executor_;
  LayerEngine& engine_;
  const ModelConfig& config_;
  Workspace& workspace_;
  const RunOptions& options_;
  const Watch watch_;
  const int64_t layer_;
  const LayerConfig kind_;
  const int64_t cache_layer_;
  const LayerWeights& weights_;
  const std::span<const Segment> segments_;
  const int64_t rows_;
  const BufferRows x_;  // [rows][hidden]: the residual stream
  const HeadLayout heads_ = head_layout(config_);
};

LayerExecutor::LayerExecutor(const Model::State& model, Workspace& workspace,
                             const RunOptions& options) noexcept
    : model_(model),
      config_(model.config),
      workspace_(workspace),
      engine_(*workspace.engine),
      options_(options) {
  engine_.use_threads(thread_count(options.threads));
  engine_.forget_looks();
  workspace_.looks.clear();
}

void LayerExecutor::layer(int64_t layer, const LayerWeights& weights, std::span<const Segment> segments,
                          const BufferRows& x, int64_t cache_layer) {
  expect_wanted();
  engine_.at_layer(layer);
  Pass(*this, layer, weights, segments, x, cache_layer).run();
}

void LayerExecutor::embed(std::span<const TokenRun> runs, const BufferRows& x) {
  const int64_t width = config_.embedding_size > 0 ? config_.embedding_size : config_.hidden;
  const BufferRows& embedded = config_.embedding_size > 0 ? workspace_.embedded.all() : x;
  int64_t rows = 0;
  workspace_.runs.clear();
  for (const TokenRun& run : runs) {
    const auto count = static_cast<int64_t>(run.tokens.size());
    workspace_.runs.push_back({count, run.position + model_.position_offset});
    rows += count;
  }
  float* row = engine_.host(embedded, rows, width);
  for (const TokenRun& run : runs)
    for (const int32_t token : run.tokens) {
      model_.embedding.row(token, row);
      row += embedded.stride;
    }
  engine_.write(embedded, rows, width);
  if (config_.embedding_size > 0)
    engine_.multiply(model_.project_in, embedded, x, rows, options_.of_rows(rows));
  const bool positions = !model_.positions.empty();
  if (config_.embedding_scale != 1 || positions)
    engine_.embed({.width = config_.hidden,
                   .scale = static_cast<float>(config_.embedding_scale),
                   .positions = positions ? &model_.positions : nullptr,
                   .runs = workspace_.runs},
                  x);
  expect_finite(-1, x, rows, config_.hidden, "the embedding");
}

void LayerExecutor::select(const BufferRows& x, int64_t slot) {
  const BufferRows to = workspace_.normed.all().from(slot);
  if (config_.final_norm)
    engine_.norm(norm_step(model_.final_norm), x, to, 1);
  else
    engine_.copy(x, to, 1, config_.hidden);
}

const float* LayerExecutor::head(int64_t count, int64_t best) {
  expect_wanted();
  workspace_.reserve_logits(model_, count);
  const BufferRows& logits = workspace_.logits.all();
  BufferRows states = workspace_.normed.all();
  if (config_.embedding_size > 0) {
    engine_.multiply(model_.project_out, states, workspace_.embedded.all(), count, options_.of_rows(count));
    states = workspace_.embedded.all();
  }
  engine_.expect_best(best);
  engine_.multiply(model_.head, states, logits, count, options_.of_rows(count));
  const auto scale = static_cast<float>(config_.logit_scale);
  const auto softcap = static_cast<float>(config_.logit_softcap);
  if (scale != 1.0f || softcap > 0) engine_.finish(scale, softcap, logits, count, config_.vocabulary);
  expect_finite(config_.layers, logits, count, config_.vocabulary, "a logit");
  const float* const found = engine_.read(logits, count, config_.vocabulary);
  settle();  // waits for nothing: the rows are there
  return found;
}

void LayerExecutor::expect_wanted() const {
  if (options_.cancelled != nullptr && (*options_.cancelled)())
    fail(ErrorCode::kInterrupted, "cancelled by the caller");
}

NormStep LayerExecutor::norm_step(const NormWeights& weights) const noexcept {
  return {.weights = &weights,
          .kind = config_.norm,
          .epsilon = static_cast<float>(config_.norm_epsilon),
          .width = config_.hidden};
}

void LayerExecutor::expect_finite(int64_t layer, const BufferRows& rows, int64_t count, int64_t width,
                                  const char* what) const {
  if (!options_.expect_finite) return;
  if (!engine_.finite(rows, count, width)) fail_not_finite(model_, layer, what);
  workspace_.looks.push_back({layer, what});
}

void LayerExecutor::settle() {
  if (workspace_.looks.empty()) return;
  const int64_t broken = engine_.first_broken();
  const Workspace::Look look = workspace_.looks[static_cast<size_t>(std::max<int64_t>(broken, 0))];
  workspace_.looks.clear();
  if (broken >= 0) fail_not_finite(model_, look.layer, look.what);
}

}  // namespace nfloat
