// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "engine/cpu/cpu_engine.h"

namespace nfloat {
namespace {

constexpr int64_t kTileRows = 16;   // tokens of one unit in a prompt
constexpr int64_t kTileHeads = 16;  // query heads of one key-value head taken together

}  // namespace

class CpuEngine::Attention {
 public:
  Attention(CpuEngine& engine, const AttentionStep& step, const Heads& own)
      : kernels_(engine.kernels_), step_(step), heads_(step.heads), own_(own), threads_(engine.threads_) {
    const int64_t queries = kTileRows * std::min(heads_.heads / heads_.kv_heads, kTileHeads);
    scratch_floats_ =
        whole_lines(std::max(heads_.head_dim, kernels::attention_scratch_floats(heads_.head_dim, queries)));
    scratch_ = grown(engine.scratch_, threads_ * scratch_floats_);
  }

  void run() {
    const std::span<const SequenceRows> sequences = step_.sequences;
    const int64_t kv_heads = own_.range.kv_heads;
    const auto count = static_cast<int64_t>(sequences.size());
    if (count == sequences.back().row + sequences.back().rows) {
      // One token each: a unit stores its key and value and attends.
      over_units(count * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const SequenceRows& sequence = sequences[static_cast<size_t>(unit / kv_heads)];
          store(sequence, sequence.row, unit % kv_heads, scratch);
          attend(sequence, sequence.row, sequence.row + 1, unit % kv_heads, scratch);
        }
      });
      return;
    }
    over_units(count * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const SequenceRows& sequence = sequences[static_cast<size_t>(unit / kv_heads)];
        for (int64_t row = sequence.row; row < sequence.row + sequence.rows; ++row)
          store(sequence, row, unit % kv_heads, scratch);
      }
    });
    // Pairs of one early and one late tile cost about the same, so that an even split is a fair one.
    for (const SequenceRows& sequence : sequences) {
      const int64_t tiles = (sequence.rows + kTileRows - 1) / kTileRows;
      over_units(tiles * kv_heads, [&](float* scratch, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t first = sequence.row + unit % tiles * kTileRows;
          const int64_t last = std::min(first + kTileRows, sequence.row + sequence.rows);
          attend(sequence, first, last, unit / tiles, scratch);
        }
      });
    }
  }

 private:
  // body(scratch, begin, end) over [0, units), a scratch for each thread.
  template <typename Body>
  void over_units(int64_t units, Body&& body) noexcept {
    const int64_t team = std::min<int64_t>(threads_, units);
    parallel_for(team, 1, threads_, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t)
        body(scratch_ + t * scratch_floats_, units * t / team, units * (t + 1) / team);
    });
  }

  // Key-value heads are counted from the first own one on.
  kernels::KvHead cache_of(const SequenceRows& sequence, int64_t kv_head) const noexcept {
    const kernels::KvType type = sequence.cache.type;
    return {
        type, heads_.head_dim, sequence.cache.pages,
        (step_.cache_layer * own_.range.kv_heads + kv_head) * kernels::kv_head_bytes(type, heads_.head_dim)};
  }

  // Turns the first dimensions of a head as the layer does; output = turned * scale, in place allowed.
  void rotate(const SequenceRows& sequence, int64_t position, const float* input, float scale,
              float* output) const noexcept {
    int64_t turned = 0;
    if (step_.rope != LayerRope::kNone) {
      const Angles& angles = step_.rope == LayerRope::kLocal ? sequence.local_angles : sequence.angles;
      turned = angles.dims;
      kernels_.rotate(input, angles.at(position), scale, turned, output);
    }
    for (int64_t d = turned; d < heads_.head_dim; ++d) output[d] = input[d] * scale;
  }

  // Stores a row's key, turned, and its value.
  void store(const SequenceRows& sequence, int64_t row, int64_t kv_head, float* scratch) const noexcept {
    const int64_t position = sequence.position + row - sequence.row;
    const float* key = own_.keys + row * own_.stride + kv_head * heads_.key_stride();
    rotate(sequence, position, key, 1.0f, scratch);
    kernels_.store(cache_of(sequence, kv_head), position, scratch, key + own_.value_after_key);
  }

  // Attention of the rows [begin, end) of a sequence for the own query heads of one key-value head.
  void attend(const SequenceRows& sequence, int64_t begin, int64_t end, int64_t kv_head,
              float* scratch) const noexcept {
    const int64_t group = heads_.heads / heads_.kv_heads;
    const float* sinks = step_.sinks != nullptr && !step_.sinks->empty() ? step_.sinks->data() : nullptr;
    float own_sinks[kTileRows * kTileHeads];
    const float* queries[kTileRows * kTileHeads];
    float* outputs[kTileRows * kTileHeads];
    int64_t begins[kTileRows * kTileHeads], ends[kTileRows * kTileHeads];
    const HeadRange& range = own_.range;
    const int64_t group_begin = (range.first_kv + kv_head) * group;
    const int64_t last = std::min(range.first + range.heads, group_begin + group);
    for (int64_t first = std::max(range.first, group_begin); first < last; first += kTileHeads) {
      const int64_t heads = std::min(last - first, kTileHeads);
      int64_t count = 0;
      for (int64_t row = begin; row < end; ++row)
        for (int64_t g = 0; g < heads; ++g, ++count) {
          const int64_t position = sequence.position + row - sequence.row;
          const int64_t head = first + g;
          float* query = own_.queries + row * own_.stride + (head - range.first) * heads_.query_stride();
          rotate(sequence, position, query, step_.scale, query);
          queries[count] = query;
          outputs[count] =
              own_.attended + row * own_.attended_stride + (head - range.first) * heads_.head_dim;
          begins[count] = step_.window > 0 ? std::max<int64_t>(0, position + 1 - step_.window) : 0;
          ends[count] = position + 1;
          if (sinks != nullptr) own_sinks[count] = sinks[head];
        }
      kernels_.attend({.cache = cache_of(sequence, kv_head),
                       .queries = count,
                       .query = queries,
                       .output = outputs,
                       .begins = begins,
                       .ends = ends,
                       .scratch = scratch,
                       .softcap = step_.softcap,
                       .sinks = sinks != nullptr ? own_sinks : nullptr});
    }
  }

  const kernels::TransformerKernels& kernels_;
  const AttentionStep& step_;
  const HeadLayout& heads_;
  const Heads& own_;
  const int threads_;
  int64_t scratch_floats_ = 0;
  float* scratch_ = nullptr;
};

void CpuEngine::attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) {
  const HeadLayout& layout = step.heads;
  float* const rows = at(projected);
  attend(step, {.range = {0, layout.heads, 0, layout.kv_heads},
                .queries = rows,
                .keys = rows + layout.key_at(),
                .stride = projected.stride,
                .value_after_key = layout.value_after_key(),
                .attended = at(attended),
                .attended_stride = attended.stride});
}

void CpuEngine::attend(const AttentionStep& step, const Heads& heads) {
  Attention(*this, step, heads).run();
}

}  // namespace nfloat
