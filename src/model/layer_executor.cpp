// SPDX-License-Identifier: Apache-2.0
#include "model/layer_executor.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/experts.h"
#include "model/finite.h"

namespace nfloat {
namespace {

void normalize_row(const ModelConfig& config, const NormWeights& norm, const float* input, int64_t width,
                   float* output) noexcept {
  const kernels::TransformerKernels& kernels = kernels::table().transformer;
  const auto epsilon = static_cast<float>(config.norm_epsilon);
  if (config.norm == NormKind::kLayer)
    kernels.layer_norm(input, norm.weight.data(), norm.bias.data(), epsilon, width, output);
  else
    kernels.rms_norm(input, norm.weight.data(), epsilon, width, output);
}

}  // namespace

void apply_linear(const LinearGroup& group, const LinearId& id, Activations& activations,
                  const ActivationRows& x, float* y, int64_t y_stride, const RunOptions& options) {
  if (options.observer != nullptr) options.observer->input(id, x);
  group.apply(activations, y, y_stride, options.of_rows(x.rows), options.threads);
  if (options.beside != nullptr) options.beside->output(id, x, y, y_stride);
  if (options.observer != nullptr) options.observer->output(id, x, y, y_stride);
}

struct LayerExecutor::Pass {
  Pass(LayerExecutor& executor, int64_t layer, const LayerWeights& weights, std::span<const Segment> segments,
       float* x, int64_t cache_layer)
      : executor_(executor),
        config_(executor.config_),
        workspace_(executor.workspace_),
        kernels_(executor.kernels_),
        options_(executor.options_),
        layer_(layer),
        kind_(executor.config_.layer(layer)),
        cache_layer_(cache_layer),
        weights_(weights),
        segments_(segments),
        rows_(segments.back().row + segments.back().rows),
        x_(x) {}

  void run() {
    begin_block(weights_.attention_norm);
    if (ends_with(LinearRole::kQueryKeyValue, input_, config_.hidden)) return;
    multiply(LinearRole::kQueryKeyValue, weights_.query_key_value, input_, config_.hidden, config_.hidden,
             workspace_.projected, projected_size());
    // The attention's largest score may pass over what is not a number.
    executor_.expect_finite(layer_, workspace_.projected, rows_ * projected_size(), "a query, key or value");
    normalize_heads();
    attend();
    if (ends_with(LinearRole::kOutput, workspace_.attended, config_.query_size())) return;
    multiply(LinearRole::kOutput, weights_.output, workspace_.attended, config_.query_size(),
             config_.query_size(), workspace_.added, config_.hidden);
    if (config_.parallel_blocks) begin_block(weights_.mlp_norm);
    end_block(weights_.attention_norm, weights_.attention_post_norm);
    executor_.expect_finite(layer_, x_, rows_ * config_.hidden, "the hidden state after the attention");
    if (!config_.parallel_blocks) begin_block(weights_.mlp_norm);
    if (!weights_.experts.empty()) {
      mix_experts(config_, layer_, weights_, workspace_, rows_, options_);
    } else if (ends_with(LinearRole::kGateUp, input_, config_.hidden) || feed_forward()) {
      return;
    }
    end_block(weights_.mlp_norm, weights_.mlp_post_norm);
    executor_.expect_finite(layer_, x_, rows_ * config_.hidden, "the hidden state after the MLP");
  }

 private:
  // Shows the input of the product with which the pass ends.
  bool ends_with(LinearRole role, const float* x, int64_t width) {
    return ends_with(role, {x, width, rows_, width});
  }
  bool ends_with(LinearRole role, const ActivationRows& x) {
    if (options_.until != role) return false;
    options_.observer->input({layer_, role}, x);
    return true;
  }

  int64_t projected_size() const noexcept { return config_.query_size() + 2 * config_.kv_size(); }

  // Where in a row of `projected` a head's query and key begin, and how far behind its key its value is.
  int64_t query_at(int64_t head) const noexcept {
    return head * config_.head_dim * (config_.interleaved_heads ? 3 : 1);
  }
  int64_t key_at(int64_t kv_head) const noexcept {
    return config_.interleaved_heads ? (3 * kv_head + 1) * config_.head_dim
                                     : config_.query_size() + kv_head * config_.head_dim;
  }
  int64_t value_after_key() const noexcept {
    return config_.interleaved_heads ? config_.head_dim : config_.kv_size();
  }

  void multiply(LinearRole role, const LinearGroup& group, const float* x, int64_t x_stride, int64_t width,
                float* y, int64_t y_stride) {
    workspace_.activations.assign(x, x_stride, rows_, width);
    apply_linear(group, {layer_, role}, workspace_.activations, {x, x_stride, rows_, width}, y, y_stride,
                 options_);
    for (size_t first = 0; first < segments_.size();) {  // neighbours with the same adapters go together
      LinearObserver* const beside = segments_[first].beside;
      int64_t rows = 0;
      size_t last = first;
      for (; last < segments_.size() && segments_[last].beside == beside; ++last)
        rows += segments_[last].rows;
      const int64_t row = segments_[first].row;
      if (beside != nullptr)
        beside->output({layer_, role}, {x + row * x_stride, x_stride, rows, width}, y + row * y_stride,
                       y_stride);
      first = last;
    }
  }

  // A single row is not worth a parallel region.
  template <typename Body>
  void over_rows(Body&& body) noexcept {
    if (rows_ == 1) return body(0, 1);
    parallel_for(rows_, 1, options_.threads, body);
  }

  // body(row of workspace.x, its row of `other`) for all rows.
  template <typename Body>
  void over_hidden(float* other, Body&& body) noexcept {
    over_rows([&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        body(x_ + row * config_.hidden, other + row * config_.hidden);
    });
  }

  // Sets input_, what the block reads.
  void begin_block(const NormWeights& norm) noexcept {
    input_ = workspace_.normed;
    if (config_.norm_place == NormPlace::kAfter || config_.norm_place == NormPlace::kAfterResidual) {
      // The matrices read it where it is; the mixture reads `normed`.
      over_hidden(workspace_.normed, [&](float* x, float* copy) { std::copy(x, x + config_.hidden, copy); });
      return;
    }
    over_hidden(workspace_.normed,
                [&](float* x, float* normed) { normalize_row(config_, norm, x, config_.hidden, normed); });
  }

  // Adds to the residual stream what the block gave.
  void end_block(const NormWeights& norm, const NormWeights& post_norm) noexcept {
    const auto scale = static_cast<float>(config_.residual_scale);
    over_hidden(workspace_.added, [&](float* x, float* added) {
      if (!post_norm.weight.empty()) normalize_row(config_, post_norm, added, config_.hidden, added);
      if (scale == 1.0f)
        for (int64_t i = 0; i < config_.hidden; ++i) x[i] += added[i];
      else
        for (int64_t i = 0; i < config_.hidden; ++i) x[i] += scale * added[i];
      if (config_.norm_place == NormPlace::kAfterResidual) normalize_row(config_, norm, x, config_.hidden, x);
    });
  }

  // True: the pass has ended.
  bool feed_forward() {
    const int64_t stride = (config_.gated ? 2 : 1) * config_.intermediate;
    multiply(LinearRole::kGateUp, weights_.gate_up, input_, config_.hidden, config_.hidden,
             workspace_.gate_up, stride);
    activate_rows(config_, false, workspace_.gate_up, stride, config_.intermediate, rows_, options_.threads);
    if (ends_with(LinearRole::kDown, {workspace_.gate_up, stride, rows_, config_.intermediate})) return true;
    multiply(LinearRole::kDown, weights_.down, workspace_.gate_up, stride, config_.intermediate,
             workspace_.added, config_.hidden);
    return false;
  }

  void normalize_heads() noexcept {
    if (config_.query_norm == QueryNorm::kNone) return;
    const bool whole = config_.query_norm == QueryNorm::kWhole;
    over_rows([&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* projected = workspace_.projected + row * projected_size();
        const auto normalize = [&](const NormWeights& norm, float* at, int64_t width) {
          normalize_row(config_, norm, at, width, at);
        };
        if (whole) {
          normalize(weights_.query_norm, projected, config_.query_size());
          normalize(weights_.key_norm, projected + config_.query_size(), config_.kv_size());
          continue;
        }
        for (int64_t head = 0; head < config_.heads; ++head)
          normalize(weights_.query_norm, projected + query_at(head), config_.head_dim);
        for (int64_t head = 0; head < config_.kv_heads; ++head)
          normalize(weights_.key_norm, projected + key_at(head), config_.head_dim);
      }
    });
  }

  // Rotates the first dimensions of a head as the layer does; output = rotated * scale, in place allowed.
  void rotate(const Segment& segment, int64_t position, const float* input, float scale,
              float* output) noexcept {
    int64_t rotated = 0;
    if (kind_.rope != LayerRope::kNone) {
      const RopeTable& table = kind_.rope == LayerRope::kLocal ? *segment.local_rope : *segment.rope;
      rotated = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
      kernels_.rotate(input, table.at(position), scale, rotated, output);
    }
    for (int64_t d = rotated; d < config_.head_dim; ++d) output[d] = input[d] * scale;
  }

  // Stores a row's key, rotated, and its value.
  void store(const Segment& segment, int64_t row, int64_t kv_head, float* scratch) noexcept {
    const int64_t position = segment.position + row - segment.row;
    const float* key = workspace_.projected + row * projected_size() + key_at(kv_head);
    rotate(segment, position, key, 1.0f, scratch);
    kernels_.store(segment.cache->head(cache_layer_, kv_head), position, scratch, key + value_after_key());
  }

  // Attention of the rows [begin, end) of a segment for the query heads of one key-value head.
  void attend_unit(const Segment& segment, int64_t begin, int64_t end, int64_t kv_head,
                   float* scratch) noexcept {
    const int64_t group = config_.heads / config_.kv_heads;
    const float scale = config_.attention_scale > 0 ? static_cast<float>(config_.attention_scale)
                                                    : 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    const std::vector<float>& sinks = weights_.sinks;
    float own_sinks[kAttentionRows * kAttentionHeads];
    const float* queries[kAttentionRows * kAttentionHeads];
    float* outputs[kAttentionRows * kAttentionHeads];
    int64_t begins[kAttentionRows * kAttentionHeads], ends[kAttentionRows * kAttentionHeads];
    for (int64_t first = 0; first < group; first += kAttentionHeads) {
      const int64_t heads = std::min(group - first, kAttentionHeads);
      int64_t count = 0;
      for (int64_t row = begin; row < end; ++row)
        for (int64_t g = 0; g < heads; ++g, ++count) {
          const int64_t position = segment.position + row - segment.row;
          const int64_t head = kv_head * group + first + g;
          float* query = workspace_.projected + row * projected_size() + query_at(head);
          rotate(segment, position, query, scale, query);
          queries[count] = query;
          outputs[count] = workspace_.attended + row * config_.query_size() + head * config_.head_dim;
          begins[count] = kind_.window > 0 ? std::max<int64_t>(0, position + 1 - kind_.window) : 0;
          ends[count] = position + 1;
          if (!sinks.empty()) own_sinks[count] = sinks[static_cast<size_t>(head)];
        }
      kernels_.attend({.cache = segment.cache->head(cache_layer_, kv_head),
                       .queries = count,
                       .query = queries,
                       .output = outputs,
                       .begins = begins,
                       .ends = ends,
                       .scratch = scratch,
                       .softcap = static_cast<float>(config_.attention_softcap),
                       .sinks = sinks.empty() ? nullptr : own_sinks});
    }
  }

  // body(thread, begin, end) over [0, units): the thread's number chooses its scratch.
  template <typename Body>
  void over_units(int64_t units, Body&& body) noexcept {
    const int64_t team = std::min<int64_t>(options_.threads, units);
    parallel_for(team, 1, options_.threads, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t)
        body(workspace_.scratch + t * workspace_.scratch_floats, units * t / team, units * (t + 1) / team);
    });
  }

  void attend() noexcept {
    const int64_t kv_heads = config_.kv_heads;
    const auto count = static_cast<int64_t>(segments_.size());
    if (count == rows_) {  // one token each: a unit stores its key and value and attends
      over_units(count * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const Segment& segment = segments_[static_cast<size_t>(unit / kv_heads)];
          store(segment, segment.row, unit % kv_heads, scratch);
          attend_unit(segment, segment.row, segment.row + 1, unit % kv_heads, scratch);
        }
      });
      return;
    }
    over_units(count * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const Segment& segment = segments_[static_cast<size_t>(unit / kv_heads)];
        for (int64_t row = segment.row; row < segment.row + segment.rows; ++row)
          store(segment, row, unit % kv_heads, scratch);
      }
    });
    // Pairs of one early and one late tile cost about the same, so that an even split is a fair one.
    for (const Segment& segment : segments_) {
      const int64_t tiles = (segment.rows + kAttentionRows - 1) / kAttentionRows;
      over_units(tiles * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t first = segment.row + unit % tiles * kAttentionRows;
          const int64_t last = std::min(first + kAttentionRows, segment.row + segment.rows);
          attend_unit(segment, first, last, unit / tiles, scratch);
        }
      });
    }
  }

  LayerExecutor& executor_;
  const ModelConfig& config_;
  Workspace& workspace_;
  const kernels::TransformerKernels& kernels_;
  const RunOptions& options_;
  const int64_t layer_;
  const LayerConfig kind_;
  const int64_t cache_layer_;
  const LayerWeights& weights_;
  const std::span<const Segment> segments_;
  const int64_t rows_;
  float* const x_;                // [rows][hidden]: the residual stream
  const float* input_ = nullptr;  // of the block at work
};

LayerExecutor::LayerExecutor(const Model::State& model, Workspace& workspace,
                             const RunOptions& options) noexcept
    : model_(model),
      config_(model.config),
      workspace_(workspace),
      kernels_(kernels::table().transformer),
      options_(options) {
  options_.threads = thread_count(options.threads);
  options_.beside = model.beside.get();
}

void LayerExecutor::layer(int64_t layer, const LayerWeights& weights, std::span<const Segment> segments,
                          float* x, int64_t cache_layer) {
  expect_wanted();
  Pass(*this, layer, weights, segments, x, cache_layer).run();
}

void LayerExecutor::embed(std::span<const TokenRun> runs, float* x) {
  const int64_t width = config_.embedding_size > 0 ? config_.embedding_size : config_.hidden;
  float* const embedded = config_.embedding_size > 0 ? workspace_.embedded : x;
  int64_t rows = 0;
  for (const TokenRun& run : runs)
    for (const int32_t token : run.tokens) model_.embedding.row(token, embedded + rows++ * width);
  if (config_.embedding_size > 0) {
    workspace_.activations.assign(embedded, width, rows, width);
    model_.project_in.apply(workspace_.activations, x, config_.hidden, options_.of_rows(rows),
                            options_.threads);
  }
  if (config_.embedding_scale != 1)
    for (int64_t i = 0; i < rows * config_.hidden; ++i) x[i] *= static_cast<float>(config_.embedding_scale);
  float* row = x;
  if (!model_.positions.empty())
    for (const TokenRun& run : runs)
      for (size_t i = 0; i < run.tokens.size(); ++i, row += config_.hidden) {
        const float* learned =
            model_.positions.data() +
            (run.position + static_cast<int64_t>(i) + model_.position_offset) * config_.hidden;
        for (int64_t d = 0; d < config_.hidden; ++d) row[d] += learned[d];
      }
  expect_finite(-1, x, rows * config_.hidden, "the embedding");
}

void LayerExecutor::select(const float* x, int64_t slot) noexcept {
  float* to = workspace_.normed + slot * config_.hidden;
  if (config_.final_norm)
    normalize_row(config_, model_.final_norm, x, config_.hidden, to);
  else
    std::copy(x, x + config_.hidden, to);
}

void LayerExecutor::head(int64_t count, float* logits) {
  expect_wanted();
  workspace_.activations.assign(workspace_.normed, config_.hidden, count, config_.hidden);
  if (config_.embedding_size > 0) {
    model_.project_out.apply(workspace_.activations, workspace_.embedded, config_.embedding_size,
                             options_.of_rows(count), options_.threads);
    workspace_.activations.assign(workspace_.embedded, config_.embedding_size, count, config_.embedding_size);
  }
  model_.head.apply(workspace_.activations, logits, config_.vocabulary, options_.of_rows(count),
                    options_.threads);
  const auto scale = static_cast<float>(config_.logit_scale);
  if (scale != 1.0f)
    for (int64_t i = 0; i < count * config_.vocabulary; ++i) logits[i] *= scale;
  if (config_.logit_softcap > 0)
    kernels_.softcap(logits, static_cast<float>(config_.logit_softcap), count * config_.vocabulary);
  expect_finite(config_.layers, logits, count * config_.vocabulary, "a logit");
}

void LayerExecutor::expect_wanted() const {
  if (options_.cancelled != nullptr && (*options_.cancelled)())
    fail(ErrorCode::kInterrupted, "cancelled by the caller");
}

void LayerExecutor::expect_finite(int64_t layer, const float* values, int64_t count, const char* what) const {
  if (options_.expect_finite && first_not_finite({values, static_cast<size_t>(count)}) >= 0)
    fail_not_finite(model_, layer, what);
}

}  // namespace nfloat
