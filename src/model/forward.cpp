// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "model/model_state.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

// A run of consecutive tokens of one session inside the rows of a forward pass.
struct Segment {
  Session::State* session;
  int64_t row;  // its first row
  int64_t rows;
  int64_t position;  // of its first token
  size_t entry;      // of the batch
  int64_t token;     // index in the entry of its first token
  bool last;         // it ends the entry
};

class Forward {
 public:
  Forward(const Model::State& model, Workspace& workspace, std::span<const Segment> segments, int64_t rows,
          const SessionOptions& options)
      : model_(model),
        config_(model.config),
        workspace_(workspace),
        kernels_(kernels::table().transformer),
        segments_(segments),
        rows_(rows),
        precision_(*options.precision),
        threads_(thread_count(options.threads)) {}

  void layers() {
    const int64_t hidden = config_.hidden;
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const LayerWeights& weights = model_.layers[static_cast<size_t>(layer)];
      normalize(weights.attention_norm);
      multiply(weights.query_key_value, workspace_.normed, hidden, hidden, workspace_.projected,
               projected_size());
      attend(layer);
      multiply(weights.output, workspace_.attended, config_.query_size(), config_.query_size(),
               workspace_.added, hidden);
      add_residual();
      normalize(weights.mlp_norm);
      multiply(weights.gate_up, workspace_.normed, hidden, hidden, workspace_.gate_up,
               2 * config_.intermediate);
      activate();
      multiply(weights.down, workspace_.gate_up, 2 * config_.intermediate, config_.intermediate,
               workspace_.added, hidden);
      add_residual();
    }
  }

  // Prepares the logits of `row` as row `slot` of the next call of head().
  void select(int64_t row, int64_t slot) noexcept {
    kernels_.rms_norm(workspace_.x + row * config_.hidden, model_.final_norm.data(),
                      static_cast<float>(config_.norm_epsilon), config_.hidden,
                      workspace_.normed + slot * config_.hidden);
  }

  // Logits of the rows selected into [0, count).
  void head(int64_t count, float* logits) {
    workspace_.activations.assign(workspace_.normed, config_.hidden, count, config_.hidden);
    model_.head.apply(workspace_.activations, logits, config_.vocabulary, precision_, threads_);
  }

 private:
  int64_t projected_size() const noexcept { return config_.query_size() + 2 * config_.kv_size(); }

  void multiply(const LinearGroup& group, const float* x, int64_t x_stride, int64_t width, float* y,
                int64_t y_stride) {
    workspace_.activations.assign(x, x_stride, rows_, width);
    group.apply(workspace_.activations, y, y_stride, precision_, threads_);
  }

  // A single row is not worth a parallel region.
  template <typename Body>
  void over_rows(Body&& body) noexcept {
    if (rows_ == 1) return body(0, 1);
    parallel_for(rows_, 1, threads_, body);
  }

  void normalize(const std::vector<float>& weight) noexcept {
    over_rows([&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        kernels_.rms_norm(workspace_.x + row * config_.hidden, weight.data(),
                          static_cast<float>(config_.norm_epsilon), config_.hidden,
                          workspace_.normed + row * config_.hidden);
    });
  }

  void add_residual() noexcept {
    over_rows([&](int64_t begin, int64_t end) {
      for (int64_t i = begin * config_.hidden; i < end * config_.hidden; ++i)
        workspace_.x[i] += workspace_.added[i];
    });
  }

  void activate() noexcept {
    const int64_t width = config_.intermediate;
    const auto body = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* gate = workspace_.gate_up + row * 2 * width;
        kernels_.silu_multiply(gate, gate + width, width);
      }
    };
    over_rows(body);
  }

  // Turns the keys of a row and stores it.
  void store(const Segment& segment, int64_t row, int64_t layer, int64_t kv_head, float* scratch) noexcept {
    const int64_t position = segment.position + row - segment.row;
    const float* key =
        workspace_.projected + row * projected_size() + config_.query_size() + kv_head * config_.head_dim;
    kernels_.rotate(key, segment.session->rope->at(position), 1.0f, config_.head_dim, scratch);
    kernels_.store(segment.session->cache.head(layer, kv_head), position, scratch, key + config_.kv_size());
  }

  // Attention of the rows [begin, end) of a segment for the query heads of one key-value head.
  void attend_unit(const Segment& segment, int64_t begin, int64_t end, int64_t layer, int64_t kv_head,
                   float* scratch) noexcept {
    const int64_t group = config_.heads / config_.kv_heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
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
          float* query = workspace_.projected + row * projected_size() + head * config_.head_dim;
          kernels_.rotate(query, segment.session->rope->at(position), scale, config_.head_dim, query);
          queries[count] = query;
          outputs[count] = workspace_.attended + row * config_.query_size() + head * config_.head_dim;
          begins[count] =
              config_.sliding_window > 0 ? std::max<int64_t>(0, position + 1 - config_.sliding_window) : 0;
          ends[count] = position + 1;
        }
      kernels_.attend({.cache = segment.session->cache.head(layer, kv_head),
                       .queries = count,
                       .query = queries,
                       .output = outputs,
                       .begins = begins,
                       .ends = ends,
                       .scratch = scratch});
    }
  }

  // body(thread, begin, end) over [0, units): the thread's number chooses its scratch.
  template <typename Body>
  void over_units(int64_t units, Body&& body) noexcept {
    const int64_t team = std::min<int64_t>(threads_, units);
    parallel_for(team, 1, threads_, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t)
        body(workspace_.scratch + t * workspace_.scratch_floats, units * t / team, units * (t + 1) / team);
    });
  }

  void attend(int64_t layer) noexcept {
    const int64_t kv_heads = config_.kv_heads;
    const auto count = static_cast<int64_t>(segments_.size());
    if (count == rows_) {  // one token each: a unit stores its key and value and attends
      over_units(count * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const Segment& segment = segments_[static_cast<size_t>(unit / kv_heads)];
          store(segment, segment.row, layer, unit % kv_heads, scratch);
          attend_unit(segment, segment.row, segment.row + 1, layer, unit % kv_heads, scratch);
        }
      });
      return;
    }
    over_units(count * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const Segment& segment = segments_[static_cast<size_t>(unit / kv_heads)];
        for (int64_t row = segment.row; row < segment.row + segment.rows; ++row)
          store(segment, row, layer, unit % kv_heads, scratch);
      }
    });
    // Pairs of one early and one late tile cost about the same, so that an even split is a fair one.
    for (const Segment& segment : segments_) {
      const int64_t tiles = (segment.rows + kAttentionRows - 1) / kAttentionRows;
      over_units(tiles * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t first = segment.row + unit % tiles * kAttentionRows;
          const int64_t last = std::min(first + kAttentionRows, segment.row + segment.rows);
          attend_unit(segment, first, last, layer, unit / tiles, scratch);
        }
      });
    }
  }

  const Model::State& model_;
  const ModelConfig& config_;
  Workspace& workspace_;
  const kernels::TransformerKernels& kernels_;
  std::span<const Segment> segments_;
  int64_t rows_;
  Precision precision_;
  int threads_;
};

void check(std::span<const BatchEntry> entries) {
  for (size_t e = 0; e < entries.size(); ++e) {
    const BatchEntry& entry = entries[e];
    if (entry.tokens.empty()) fail(ErrorCode::kInvalidArgument, "entry {} of the batch has no tokens", e);
    const Session& session = *entry.session;
    if (&session.model().state() != &entries[0].session->model().state())
      fail(ErrorCode::kInvalidArgument, "entry {} of the batch runs another model than entry 0", e);
    for (size_t other = 0; other < e; ++other)
      if (entries[other].session == entry.session)
        fail(ErrorCode::kInvalidArgument, "entries {} and {} of the batch are the same session", other, e);
    const int64_t vocabulary = session.model().config().vocabulary;
    for (size_t i = 0; i < entry.tokens.size(); ++i)
      if (entry.tokens[i] < 0 || entry.tokens[i] >= vocabulary)
        fail(ErrorCode::kInvalidArgument, "token {} is {}, expected 0 to {} (the model's vocabulary)", i,
             entry.tokens[i], vocabulary - 1);
    const auto count = static_cast<int64_t>(entry.tokens.size());
    if (count > session.context() - session.position())
      fail(ErrorCode::kInvalidArgument, "{} tokens do not fit: {} of a context of {} are used", count,
           session.position(), session.context());
  }
}

// Calls take(segment, row of the segment, logits) for the wanted rows of a finished pass, in ascending order:
// every row, or the last of each entry.
template <typename Take>
void visit_logits(Forward& forward, std::span<const Segment> segments, int64_t vocabulary, bool all,
                  std::vector<float>& logits, Take&& take) {
  struct Wanted {
    const Segment* segment;
    int64_t row;
  };
  std::vector<Wanted> wanted;
  for (const Segment& segment : segments)
    for (int64_t row = all ? 0 : segment.rows - 1; row < segment.rows; ++row)
      if (all || segment.last) wanted.push_back({&segment, row});
  const auto total = static_cast<int64_t>(wanted.size());
  for (int64_t first = 0; first < total; first += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, total - first);
    logits.resize(static_cast<size_t>(count * vocabulary));
    for (int64_t i = 0; i < count; ++i) {
      const Wanted& one = wanted[static_cast<size_t>(first + i)];
      forward.select(one.segment->row + one.row, i);
    }
    forward.head(count, logits.data());
    for (int64_t i = 0; i < count; ++i) {
      const Wanted& one = wanted[static_cast<size_t>(first + i)];
      take(*one.segment, one.row,
           std::span<const float>(logits).subspan(static_cast<size_t>(i * vocabulary),
                                                  static_cast<size_t>(vocabulary)));
    }
  }
}

}  // namespace

void forward_batch(std::span<const BatchEntry> entries, const LogitsVisitor& visitor) {
  if (entries.empty()) return;
  check(entries);
  const Model::State& model = entries[0].session->model().state();
  const ModelConfig& config = model.config;
  Workspace& workspace = entries[0].session->state().workspace;
  int64_t total = 0;
  for (const BatchEntry& entry : entries) total += static_cast<int64_t>(entry.tokens.size());
  const SessionOptions& options = entries[0].session->state().options;
  workspace.reserve(config, std::min(total, kMaxRows), thread_count(options.threads));

  std::vector<Segment> segments;
  std::vector<float> logits;
  size_t entry = 0;
  int64_t taken = 0;  // tokens of `entry` already done
  while (entry < entries.size()) {
    segments.clear();
    int64_t rows = 0;
    while (entry < entries.size() && rows < kMaxRows) {
      const BatchEntry& from = entries[entry];
      Session::State& session = from.session->state();
      const int64_t left = static_cast<int64_t>(from.tokens.size()) - taken;
      const int64_t count = std::min(left, kMaxRows - rows);
      for (int64_t i = 0; i < count; ++i)
        model.embedding.row(from.tokens[static_cast<size_t>(taken + i)],
                            workspace.x + (rows + i) * config.hidden);
      segments.push_back({.session = &session,
                          .row = rows,
                          .rows = count,
                          .position = session.position,
                          .entry = entry,
                          .token = taken,
                          .last = count == left});
      session.position += count;
      session.has_logits = false;
      rows += count;
      taken = count == left ? 0 : taken + count;
      if (count == left) ++entry;
    }
    Forward forward(model, workspace, segments, rows, options);
    forward.layers();
    visit_logits(forward, segments, config.vocabulary, static_cast<bool>(visitor), logits,
                 [&](const Segment& segment, int64_t row, std::span<const float> values) {
                   if (visitor) visitor(segment.entry, segment.token + row, values);
                   if (!segment.last || row + 1 != segment.rows) return;
                   std::copy(values.begin(), values.end(), segment.session->logits.begin());
                   segment.session->has_logits = true;
                 });
  }
}

}  // namespace nfloat
