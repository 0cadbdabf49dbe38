// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_PASS_H_
#define NFLOAT_MODEL_PASS_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/layer_executor.h"

namespace nfloat {

// Where a segment comes from.
struct SegmentSource {
  size_t entry = 0;   // of the batch
  int64_t token = 0;  // index in the entry of its first token
  bool last = false;  // it ends the entry
  WantedLogits logits = WantedLogits::kLast;
  int64_t best = 0;  // as that of BatchEntry
};

// Rows that go through a layer together, at most kMaxRows.
struct Chunk {
  std::vector<Segment> segments;
  std::vector<TokenRun> runs;          // one a segment
  std::vector<SegmentSource> sources;  // one a segment
  int64_t rows = 0;

  void add(Segment segment, std::span<const int32_t> tokens, const SegmentSource& source) {
    segment.row = rows;
    segment.rows = static_cast<int64_t>(tokens.size());
    segments.push_back(segment);
    runs.push_back({tokens, segment.position});
    sources.push_back(source);
    rows += segment.rows;
  }
};

// Takes the embeddings of all chunks through all layers: x [rows of all chunks][hidden]. Each layer's weights
// are asked for once. `one_layer`: the caches hold one layer at a time.
void run_layers(const Model::State& model, LayerExecutor& executor, std::span<const Chunk> chunks,
                const BufferRows& x, bool one_layer);

// Calls take(segment's index in the chunk, row of the segment, logits) for the rows of a finished chunk whose
// logits are wanted, in ascending order. x: the chunk's rows.
using TakeLogits = std::function<void(size_t segment, int64_t row, std::span<const float> logits)>;
void visit_logits(LayerExecutor& executor, const ModelConfig& config, const Chunk& chunk, const BufferRows& x,
                  const TakeLogits& take);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_PASS_H_
