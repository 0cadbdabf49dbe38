// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "model/experts.h"
#include "model/finite.h"
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
        threads_(thread_count(options.threads)),
        expect_finite_(options.expect_finite) {}

  void layers() {
    expect_finite(-1, workspace_.x, rows_ * config_.hidden, "the embedding");
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const LayerWeights& weights = model_.layers[static_cast<size_t>(layer)];
      begin_block(weights.attention_norm);
      multiply(weights.query_key_value, input_, config_.hidden, config_.hidden, workspace_.projected,
               projected_size());
      normalize_heads(weights);
      attend(layer);
      multiply(weights.output, workspace_.attended, config_.query_size(), config_.query_size(),
               workspace_.added, config_.hidden);
      if (config_.parallel_blocks) begin_block(weights.mlp_norm);
      end_block(weights.attention_norm, weights.attention_post_norm);
      expect_finite(layer, workspace_.x, rows_ * config_.hidden, "the hidden state after the attention");
      if (!config_.parallel_blocks) begin_block(weights.mlp_norm);
      if (weights.experts.empty())
        feed_forward(weights);
      else
        mix_experts(config_, weights, workspace_, rows_, precision_, threads_);
      end_block(weights.mlp_norm, weights.mlp_post_norm);
      expect_finite(layer, workspace_.x, rows_ * config_.hidden, "the hidden state after the MLP");
    }
  }

  // What the layers begin with: workspace.x from the tokens' embeddings and positions.
  void embed(std::span<const BatchEntry> entries) {
    const int64_t width = config_.embedding_size > 0 ? config_.embedding_size : config_.hidden;
    float* rows = config_.embedding_size > 0 ? workspace_.embedded : workspace_.x;
    for (const Segment& segment : segments_)
      for (int64_t i = 0; i < segment.rows; ++i)
        model_.embedding.row(entries[segment.entry].tokens[static_cast<size_t>(segment.token + i)],
                             rows + (segment.row + i) * width);
    if (config_.embedding_size > 0)
      multiply(model_.project_in, rows, width, width, workspace_.x, config_.hidden);
    if (config_.embedding_scale != 1)
      for (int64_t i = 0; i < rows_ * config_.hidden; ++i)
        workspace_.x[i] *= static_cast<float>(config_.embedding_scale);
    if (model_.positions.empty()) return;
    for (const Segment& segment : segments_)
      for (int64_t i = 0; i < segment.rows; ++i) {
        const float* learned =
            model_.positions.data() + (segment.position + i + model_.position_offset) * config_.hidden;
        float* row = workspace_.x + (segment.row + i) * config_.hidden;
        for (int64_t d = 0; d < config_.hidden; ++d) row[d] += learned[d];
      }
  }

  // Prepares the logits of `row` as row `slot` of the next call of head().
  void select(int64_t row, int64_t slot) noexcept {
    const float* from = workspace_.x + row * config_.hidden;
    float* to = workspace_.normed + slot * config_.hidden;
    if (config_.final_norm)
      normalize_row(model_.final_norm, from, config_.hidden, to);
    else
      std::copy(from, from + config_.hidden, to);
  }

  // Logits of the rows selected into [0, count).
  void head(int64_t count, float* logits) {
    workspace_.activations.assign(workspace_.normed, config_.hidden, count, config_.hidden);
    if (config_.embedding_size > 0) {
      model_.project_out.apply(workspace_.activations, workspace_.embedded, config_.embedding_size,
                               precision_, threads_);
      workspace_.activations.assign(workspace_.embedded, config_.embedding_size, count,
                                    config_.embedding_size);
    }
    model_.head.apply(workspace_.activations, logits, config_.vocabulary, precision_, threads_);
    const auto scale = static_cast<float>(config_.logit_scale);
    if (scale != 1.0f)
      for (int64_t i = 0; i < count * config_.vocabulary; ++i) logits[i] *= scale;
    if (config_.logit_softcap > 0)
      kernels_.softcap(logits, static_cast<float>(config_.logit_softcap), count * config_.vocabulary);
    expect_finite(config_.layers, logits, count * config_.vocabulary, "a logit");
  }

 private:
  void expect_finite(int64_t layer, const float* values, int64_t count, const char* what) const {
    if (expect_finite_ && first_not_finite({values, static_cast<size_t>(count)}) >= 0)
      fail_not_finite(model_, layer, what);
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

  void normalize_row(const NormWeights& norm, const float* input, int64_t width, float* output) noexcept {
    const auto epsilon = static_cast<float>(config_.norm_epsilon);
    if (config_.norm == NormKind::kLayer)
      kernels_.layer_norm(input, norm.weight.data(), norm.bias.data(), epsilon, width, output);
    else
      kernels_.rms_norm(input, norm.weight.data(), epsilon, width, output);
  }

  // body(row of workspace.x, its row of `other`) for all rows.
  template <typename Body>
  void over_hidden(float* other, Body&& body) noexcept {
    over_rows([&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        body(workspace_.x + row * config_.hidden, other + row * config_.hidden);
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
                [&](float* x, float* normed) { normalize_row(norm, x, config_.hidden, normed); });
  }

  // Adds to the residual stream what the block gave.
  void end_block(const NormWeights& norm, const NormWeights& post_norm) noexcept {
    const auto scale = static_cast<float>(config_.residual_scale);
    over_hidden(workspace_.added, [&](float* x, float* added) {
      if (!post_norm.weight.empty()) normalize_row(post_norm, added, config_.hidden, added);
      if (scale == 1.0f)
        for (int64_t i = 0; i < config_.hidden; ++i) x[i] += added[i];
      else
        for (int64_t i = 0; i < config_.hidden; ++i) x[i] += scale * added[i];
      if (config_.norm_place == NormPlace::kAfterResidual) normalize_row(norm, x, config_.hidden, x);
    });
  }

  void feed_forward(const LayerWeights& weights) {
    const int64_t stride = (config_.gated ? 2 : 1) * config_.intermediate;
    multiply(weights.gate_up, input_, config_.hidden, config_.hidden, workspace_.gate_up, stride);
    activate_rows(config_, false, workspace_.gate_up, stride, config_.intermediate, rows_, threads_);
    multiply(weights.down, workspace_.gate_up, stride, config_.intermediate, workspace_.added,
             config_.hidden);
  }

  void normalize_heads(const LayerWeights& weights) noexcept {
    if (config_.query_norm == QueryNorm::kNone) return;
    const bool whole = config_.query_norm == QueryNorm::kWhole;
    over_rows([&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* projected = workspace_.projected + row * projected_size();
        const auto normalize = [&](const NormWeights& norm, float* at, int64_t width) {
          normalize_row(norm, at, width, at);
        };
        if (whole) {
          normalize(weights.query_norm, projected, config_.query_size());
          normalize(weights.key_norm, projected + config_.query_size(), config_.kv_size());
          continue;
        }
        for (int64_t head = 0; head < config_.heads; ++head)
          normalize(weights.query_norm, projected + query_at(head), config_.head_dim);
        for (int64_t head = 0; head < config_.kv_heads; ++head)
          normalize(weights.key_norm, projected + key_at(head), config_.head_dim);
      }
    });
  }

  // Turns the first dimensions of a head as its layer does; output = turned * scale, in place allowed.
  void turn(const Segment& segment, const LayerConfig& layer, int64_t position, const float* input,
            float scale, float* output) noexcept {
    int64_t turned = 0;
    if (layer.rope != LayerRope::kNone) {
      const Session::State& session = *segment.session;
      const RopeTable& table = layer.rope == LayerRope::kLocal ? *session.local_rope : *session.rope;
      turned = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
      kernels_.rotate(input, table.at(position), scale, turned, output);
    }
    for (int64_t d = turned; d < config_.head_dim; ++d) output[d] = input[d] * scale;
  }

  // Turns the keys of a row and stores it.
  void store(const Segment& segment, int64_t row, int64_t layer, int64_t kv_head, float* scratch) noexcept {
    const int64_t position = segment.position + row - segment.row;
    const float* key = workspace_.projected + row * projected_size() + key_at(kv_head);
    turn(segment, config_.layer(layer), position, key, 1.0f, scratch);
    kernels_.store(segment.session->cache.head(layer, kv_head), position, scratch, key + value_after_key());
  }

  // Attention of the rows [begin, end) of a segment for the query heads of one key-value head.
  void attend_unit(const Segment& segment, int64_t begin, int64_t end, int64_t layer, int64_t kv_head,
                   float* scratch) noexcept {
    const int64_t group = config_.heads / config_.kv_heads;
    const LayerConfig own = config_.layer(layer);
    const float scale = config_.attention_scale > 0 ? static_cast<float>(config_.attention_scale)
                                                    : 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    const std::vector<float>& sinks = model_.layers[static_cast<size_t>(layer)].sinks;
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
          turn(segment, own, position, query, scale, query);
          queries[count] = query;
          outputs[count] = workspace_.attended + row * config_.query_size() + head * config_.head_dim;
          begins[count] = own.window > 0 ? std::max<int64_t>(0, position + 1 - own.window) : 0;
          ends[count] = position + 1;
          if (!sinks.empty()) own_sinks[count] = sinks[static_cast<size_t>(head)];
        }
      kernels_.attend({.cache = segment.session->cache.head(layer, kv_head),
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
  bool expect_finite_;
  const float* input_ = nullptr;  // of the block at work
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

// Pages and angles for all tokens of a batch.
void reserve(std::span<const BatchEntry> entries) {
  for (const BatchEntry& entry : entries) {
    Session::State& session = entry.session->state();
    const int64_t end = session.position + static_cast<int64_t>(entry.tokens.size());
    session.cache.reserve(session.position, end);
    if (session.rope) session.rope->reserve(end);
    if (session.local_rope) session.local_rope->reserve(end);
  }
}

// Puts the sessions of a batch back to what they were unless the batch was finished; one whose new logits
// have already replaced the old ones has none then.
class Unfinished {
 public:
  explicit Unfinished(std::span<const BatchEntry> entries) : entries_(entries) {
    for (const BatchEntry& entry : entries) {
      const Session::State& session = entry.session->state();
      before_.push_back({session.position, session.has_logits});
    }
  }
  ~Unfinished() {
    for (size_t i = 0; i < before_.size(); ++i) {
      Session::State& session = entries_[i].session->state();
      const bool replaced = session.has_logits && session.position != before_[i].position;
      session.has_logits = before_[i].has_logits && !replaced;
      session.position = before_[i].position;
    }
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  void finished() noexcept { before_.clear(); }

 private:
  struct Before {
    int64_t position;
    bool has_logits;
  };
  std::span<const BatchEntry> entries_;
  std::vector<Before> before_;
};

}  // namespace

void forward_batch(std::span<const BatchEntry> entries, const LogitsVisitor& visitor) {
  if (entries.empty()) return;
  check(entries);
  reserve(entries);
  const Model::State& model = entries[0].session->model().state();
  const ModelConfig& config = model.config;
  Workspace& workspace = entries[0].session->state().workspace;
  int64_t total = 0;
  for (const BatchEntry& entry : entries) total += static_cast<int64_t>(entry.tokens.size());
  const SessionOptions& options = entries[0].session->state().options;
  workspace.reserve(config, std::min(total, kMaxRows), thread_count(options.threads));

  Unfinished unfinished(entries);
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
    forward.embed(entries);
    forward.layers();
    visit_logits(forward, segments, config.vocabulary, static_cast<bool>(visitor), logits,
                 [&](const Segment& segment, int64_t row, std::span<const float> values) {
                   if (visitor) visitor(segment.entry, segment.token + row, values);
                   if (!segment.last || row + 1 != segment.rows) return;
                   std::copy(values.begin(), values.end(), segment.session->logits.begin());
                   segment.session->has_logits = true;
                 });
  }
  unfinished.finished();
}

}  // namespace nfloat
