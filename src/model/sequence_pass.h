// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_SEQUENCE_PASS_H_
#define NFLOAT_MODEL_SEQUENCE_PASS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/pass.h"

namespace nfloat {

// Independent sequences from their first token on, taken through a model layer by layer: scoring,
// calibration. Rows go together in chunks of at most kMaxRows, whole sequences or pieces of a longer one; the
// caches hold the keys and values of one layer and of the sequences of one chunk. `sequences` must outlive
// the pass.
class SequencePass {
 public:
  // `type` is not kAuto. `pool`: of pages of one layer (one_layer_pages), null for one of its own. Throws
  // kInvalidArgument (an empty sequence, a token or a length that the model does not allow), kOutOfMemory.
  SequencePass(const Model& model, std::span<const std::span<const int32_t>> sequences, KvCacheType type,
               std::shared_ptr<PagePool> pool = nullptr);
  SequencePass(const SequencePass&) = delete;
  SequencePass& operator=(const SequencePass&) = delete;

  // Tokens of all sequences: the rows of x below, one sequence after the other.
  int64_t rows() const noexcept { return rows_; }
  size_t chunks() const noexcept { return chunks_.size(); }
  int64_t rows_of(size_t chunk) const noexcept { return chunks_[chunk].rows; }

  // Of one chunk: x [rows_of(chunk)][hidden]. A layer takes the chunks in order.
  // x = the embeddings.
  void embed(LayerExecutor& executor, size_t chunk, const BufferRows& x) const;
  // Replaces x by what a layer with these weights makes of it.
  void layer(LayerExecutor& executor, int64_t layer, const LayerWeights& weights, size_t chunk,
             const BufferRows& x) const;
  // Visits the logits of every token, in order.
  void logits(LayerExecutor& executor, size_t chunk, const BufferRows& x, const LogitsVisitor& visitor) const;

  // The same of all chunks: x [rows()][hidden].
  void embed(LayerExecutor& executor, const BufferRows& x) const;
  void layer(LayerExecutor& executor, int64_t layer, const LayerWeights& weights, const BufferRows& x) const;
  void logits(LayerExecutor& executor, const BufferRows& x, const LogitsVisitor& visitor) const;

 private:
  template <typename Body>
  void over_chunks(BufferRows x, Body&& body) const {
    for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      body(chunk, x);
      x = x.from(chunks_[chunk].rows);
    }
  }

  const Model model_;
  std::shared_ptr<RopeTable> rope_, local_rope_;
  std::vector<KvCache> caches_;  // by the place of a sequence in its chunk
  std::vector<Chunk> chunks_;
  int64_t rows_ = 0;
};

std::shared_ptr<PagePool> one_layer_pages(const Model& model, KvCacheType type);

// forward_sequences() again and again: buffers and pages are kept for the next call.
class SequenceRunner {
 public:
  // Of `options`, precision, kv_cache, threads, expect_finite and cancelled count.
  SequenceRunner(const Model& model, const SessionOptions& options);
  SequenceRunner(const SequenceRunner&) = delete;
  SequenceRunner& operator=(const SequenceRunner&) = delete;
  void run(std::span<const std::span<const int32_t>> sequences, const LogitsVisitor& visitor);

 private:
  const Model model_;
  const std::function<bool()> cancelled_;
  const RunOptions options_;
  const KvCacheType type_;
  const std::shared_ptr<PagePool> pool_;
  Workspace workspace_;
  OwnedRows hidden_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_SEQUENCE_PASS_H_
