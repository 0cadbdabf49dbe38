// SPDX-License-Identifier: Apache-2.0
#include "model/pass.h"

namespace nfloat {

void run_layers(const Model::State& model, LayerExecutor& executor, std::span<const Chunk> chunks,
                const BufferRows& x, bool one_layer) {
  BufferRows rows = x;
  for (const Chunk& chunk : chunks) {
    executor.embed(chunk.runs, rows);
    rows = rows.from(chunk.rows);
  }
  for (int64_t layer = 0; layer < model.config.layers; ++layer) {
    const std::shared_ptr<const LayerWeights> weights = model.layer(layer);
    rows = x;
    for (const Chunk& chunk : chunks) {
      executor.layer(layer, *weights, chunk.segments, rows, one_layer ? 0 : layer);
      rows = rows.from(chunk.rows);
    }
  }
}

void visit_logits(LayerExecutor& executor, const ModelConfig& config, const Chunk& chunk, const BufferRows& x,
                  const TakeLogits& take) {
  struct Wanted {
    size_t segment;
    int64_t row;  // of the segment
  };
  std::vector<Wanted> wanted;
  for (size_t s = 0; s < chunk.segments.size(); ++s) {
    const SegmentSource& source = chunk.sources[s];
    const int64_t rows = chunk.segments[s].rows;
    if (source.logits == WantedLogits::kAll)
      for (int64_t row = 0; row < rows; ++row) wanted.push_back({s, row});
    else if (source.logits == WantedLogits::kLast && source.last)
      wanted.push_back({s, rows - 1});
  }
  const auto total = static_cast<int64_t>(wanted.size());
  const int64_t vocabulary = config.vocabulary;
  for (int64_t first = 0; first < total; first += kMaxLogitRows) {
    const int64_t count = std::min(kMaxLogitRows, total - first);
    int64_t best = 1;  // enough for all of these rows; 0: all are wanted
    for (int64_t i = 0; i < count; ++i) {
      const Wanted& one = wanted[static_cast<size_t>(first + i)];
      const SegmentSource& source = chunk.sources[one.segment];
      const int64_t own = source.logits == WantedLogits::kLast ? source.best : 0;
      best = best == 0 || own <= 0 ? 0 : std::max(best, own);
      executor.select(x.from(chunk.segments[one.segment].row + one.row), i);
    }
    const float* const logits = executor.head(count, best);
    for (int64_t i = 0; i < count; ++i) {
      const Wanted& one = wanted[static_cast<size_t>(first + i)];
      take(one.segment, one.row, {logits + i * vocabulary, static_cast<size_t>(vocabulary)});
    }
  }
}

}  // namespace nfloat
